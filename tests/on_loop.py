"""Code of a job where its worker runs it: on the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.util.concurrency import greenlet_spawn

from db.loop import event_loop

T = TypeVar("T")


def all_on_loop(*works: Callable[[], T]) -> list[T]:
    """Run these on the loop at once, and wait for all; raises the first error."""

    async def run() -> list[T]:
        return list(await asyncio.gather(*(greenlet_spawn(work) for work in works)))

    return asyncio.run_coroutine_threadsafe(run(), event_loop()).result(120)


def on_loop(work: Callable[[], T]) -> T:
    """Run this on the loop, and wait for it."""
    return all_on_loop(work)[0]
