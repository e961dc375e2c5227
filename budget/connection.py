"""The connection to the ledger's Redis: each command is sent once, and no counters of an earlier life are trusted."""

import hashlib
from collections.abc import Generator
from contextlib import suppress
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.errors import LedgerDown
from budget.pipe import NOT_THE_MASTER, Command, Pipe
from budget.scopes import WARM
from db.loop import on_loop

SOCKET_TIMEOUT_S = 5

# Drop the marker if it bears the id of another server, or of this one before it was restarted; or if it is none.
_FORGET_ANOTHERS = """
local server = redis.pcall('HGET', KEYS[1], 'server')
if server and server ~= ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def connect(url: str, timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """A connection pool whose commands are sent once: the scripts are idempotent, but who resends is us. Every new
    connection checks the server first (see `_greeting`)."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_greet,
    )


def connect_loop(url: str) -> Pipe:
    """The same for the jobs of an event loop."""
    return Pipe(url, SOCKET_TIMEOUT_S, decode_responses=True, redis_connect_func=_greet_from_loop)


class Script:
    """A Lua script of the ledger. Its last argument is the id of the server that its connection was greeted by, so
    that nobody works on the counters of another."""

    def __init__(self, client: redis.Redis, *names: str, pipe: Pipe | None = None) -> None:
        folder = resources.files("budget") / "scripts"
        self._text = "".join((folder / f"{name}.lua").read_text() for name in names)
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._pool: Any = client.connection_pool
        self._pipe = pipe

    def __call__(self, keys: list[str], args: list[Any]) -> list[str]:
        """The script's reply; sent once, and errors of the server and the connection are raised as they are."""
        ask = self._ask if self._pipe is None or not on_loop() else self._pipe.ask
        words = (len(keys), *keys, *args)
        try:
            reply: list[str] = ask(lambda connection: ("EVALSHA", self._sha, *words, _server(connection)))
        except redis.exceptions.NoScriptError:
            reply = ask(lambda connection: ("EVAL", self._text, *words, _server(connection)))
        if reply == ["cold"] and self._pipe is not None:
            # whoever connects anew finds out why
            self._pipe.reconnect()
        return reply

    def _ask(self, command: Command) -> list[str]:
        connection = self._pool.get_connection()
        try:
            connection.send_command(*command(connection))
            reply: list[str] = connection.read_response()
            if reply == ["cold"]:
                connection.disconnect()
        except (redis.ConnectionError, redis.TimeoutError, *NOT_THE_MASTER):
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)
        return reply


def _server(connection: Any) -> str:
    return getattr(connection, "paymaster_server", "")


def down(error: redis.RedisError) -> LedgerDown:
    """What a caller gets for an error of Redis."""
    first_line = str(error).partition("\n")[0][:200] or type(error).__name__
    return LedgerDown(f"the ledger's Redis gives no usable answer: {first_line}")


def _greeting(connection: Any) -> Generator[tuple[str, ...], Any]:
    """What a new connection asks first. Trust no counters of an earlier life: a server that was restarted from a dump,
    or a replica that took over, holds old ones. The marker bears the id of the server that was rebuilt, and every
    script compares it with the id that its connection learned here. And refuse a server that may evict counters."""
    connection.paymaster_server = None
    told = _info((yield "INFO", "server")) | _info((yield "INFO", "memory"))
    if told.get("maxmemory", "0") != "0" and told.get("maxmemory_policy") != "noeviction":
        raise redis.ResponseError(f"maxmemory-policy is {told.get('maxmemory_policy')}; the ledger needs noeviction")
    yield "EVAL", _FORGET_ANOTHERS, "1", WARM, told["run_id"]
    connection.paymaster_server = told["run_id"]


def _greet(connection: Any) -> None:
    connection.on_connect()
    greeting = _greeting(connection)
    with suppress(StopIteration):
        command = next(greeting)
        while True:
            connection.send_command(*command)
            command = greeting.send(connection.read_response())


async def _greet_from_loop(connection: Any) -> None:
    await connection.on_connect()
    greeting = _greeting(connection)
    with suppress(StopIteration):
        command = next(greeting)
        while True:
            await connection.send_command(*command)
            command = greeting.send(await connection.read_response())


def _info(text: Any) -> dict[str, str]:
    lines = (text.decode() if isinstance(text, bytes) else str(text)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
