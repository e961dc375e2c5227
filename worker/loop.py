"""The one event loop of a worker process. Task threads wait for what they hand to it."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from db.once import once_per_process

T = TypeVar("T")

_under_way: set[Future[Any]] = set()


@once_per_process
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="provider-loop", daemon=True).start()
    return loop


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the process' event loop and wait for it; raises what it raised, and
    `concurrent.futures.CancelledError` after `cancel_all`."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    _under_way.add(future)
    try:
        return future.result()
    finally:
        _under_way.discard(future)


def cancel_all() -> int:
    """Cancel what is under way; how much that was."""
    return sum(future.cancel() for future in list(_under_way))
