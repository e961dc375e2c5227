"""Threads for routes that write: a database that hangs must not leave none for those that only read."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio
from anyio.lowlevel import RunVar
from starlette.concurrency import run_in_threadpool

from api.problems import away

# Routes that wait for SQL, Redis or the broker run on threads: no more than the database has connections for (25).
THREADS = 20
# of these, for routes that write
WRITERS = 12
TURN_WITHIN_S = 10

P = ParamSpec("P")
T = TypeVar("T")

# one for each event loop
_turns: RunVar[anyio.Semaphore] = RunVar("turns")


def writing(route: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Decorates a route that writes: it runs on a thread once it is its turn, or answers that it did nothing."""

    @functools.wraps(route)
    async def in_turn(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            turns = _turns.get()
        except LookupError:
            _turns.set(turns := anyio.Semaphore(WRITERS))
        try:
            with anyio.fail_after(TURN_WITHIN_S):
                await turns.acquire()
        except TimeoutError:
            raise away("nothing was done: too many requests wait for the database or the broker") from None
        try:
            return await run_in_threadpool(route, *args, **kwargs)
        finally:
            turns.release()

    return in_turn
