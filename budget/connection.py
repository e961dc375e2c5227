"""The connection to the ledger's Redis: each command is sent once, and no counters of an earlier life are trusted."""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.errors import LedgerDown
from budget.scopes import WARM

SOCKET_TIMEOUT_S = 5

# Drop the marker if it bears the id of another server, or of this one before it was restarted.
_FORGET_ANOTHERS = """
local server = redis.call('HGET', KEYS[1], 'server')
if server and server ~= ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def connect(url: str) -> redis.Redis:
    """A connection pool whose commands are sent once: the scripts are idempotent, but who resends is us. Every new
    connection checks the server first (see `_greet`)."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_greet,
    )


def down(error: redis.RedisError) -> LedgerDown:
    """What a caller gets for an error of Redis."""
    first_line = str(error).partition("\n")[0][:200] or type(error).__name__
    return LedgerDown(f"the ledger's Redis gives no usable answer: {first_line}")


def _greet(connection: Any) -> None:
    """Trust no counters of an earlier life: a server that was restarted from a dump, or a replica that took over,
    holds old ones. The marker bears the id of the server that was rebuilt; every restart breaks all connections,
    so nobody can use the counters without having passed here. And refuse a server that may evict them."""
    connection.on_connect()

    def ask(*command: str) -> Any:
        connection.send_command(*command)
        return connection.read_response()

    told = _info(ask("INFO", "server")) | _info(ask("INFO", "memory"))
    if told.get("maxmemory", "0") != "0" and told.get("maxmemory_policy") != "noeviction":
        raise redis.ResponseError(f"maxmemory-policy is {told.get('maxmemory_policy')}; the ledger needs noeviction")
    ask("EVAL", _FORGET_ANOTHERS, "1", WARM, told["run_id"])


def _info(text: Any) -> dict[str, str]:
    lines = (text.decode() if isinstance(text, bytes) else str(text)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
