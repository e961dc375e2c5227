"""Commands to Redis of the jobs that share an event loop: those that come while others are under way go together, in
the next round trip."""

import asyncio
from collections.abc import Callable
from typing import Any

import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.util.concurrency import await_only

from db.loop import event_loop

# gives the words of a command, for which the connection may matter
Command = Callable[[Any], tuple[Any, ...]]


# Another server is the ledger's by now, and a new connection finds it.
NOT_THE_MASTER = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)


class Pipe:
    """One connection of an event loop, made anew when it breaks; no command is sent twice. `options` are redis-py's."""

    def __init__(self, url: str, timeout_s: float, **options: Any) -> None:
        pool: Any = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        self._connection = pool.make_connection()
        self._timeout_s = timeout_s
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._stale = False

    def ask(self, command: Command) -> Any:
        """The reply to a command of a job on the loop; raises `redis.RedisError`."""
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await_only(reply)

    def reconnect(self) -> None:
        """Send what comes next over a new connection."""
        self._stale = True

    def close(self) -> None:
        """Close the connection, from another thread than the loop's."""
        if self._connection.is_connected:
            asyncio.run_coroutine_threadsafe(self._connection.disconnect(), event_loop()).result()

    async def _send_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._exchange(group)
            except Exception as error:
                # there may be replies to come that are nobody's; and nothing may go wrong here, or all wait for ever
                self._stale = True
                if isinstance(error, TimeoutError):
                    error = redis.TimeoutError(f"no answer within {self._timeout_s:g} s")
                elif not isinstance(error, redis.RedisError):
                    error = redis.ConnectionError(f"the connection failed: {type(error).__name__}")
                for _, reply in group:
                    if not reply.done():
                        reply.set_exception(error)
        self._sender = None

    async def _exchange(self, group: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        connection = self._connection
        if self._stale:
            await connection.disconnect(nowait=True)
            self._stale = False
        await connection.connect()
        words = [command(connection) for command, _ in group]
        await connection.send_packed_command(connection.pack_commands(words), check_health=False)
        for _, reply in group:
            try:
                reply.set_result(await connection.read_response())
            except redis.ResponseError as error:
                self._stale |= isinstance(error, NOT_THE_MASTER)
                reply.set_exception(error)
