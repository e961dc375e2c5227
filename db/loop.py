"""The one event loop of a worker process, and how code waits that may run on it. Such code is written as for a thread
of its own: the loop runs it in a greenlet, as SQLAlchemy does for its own asyncio side, and goes on with others while
it waits."""

import asyncio
import threading
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy.util.concurrency import await_only, in_greenlet

from db.once import once_per_process

T = TypeVar("T")


@once_per_process
def event_loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs in a thread of its own from the first use on."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event-loop", daemon=True).start()
    return loop


def on_loop() -> bool:
    """Whether this is code that the loop runs in a greenlet."""
    return in_greenlet() and asyncio.get_running_loop() is event_loop.peek()


def wait_for(future: Future[T]) -> T:
    """The result of what another thread does; raises what it raised."""
    if not on_loop():
        return future.result()
    # not `asyncio.wrap_future`: it cancels the other thread's future with ours, and waits for ever for a StopIteration
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(_tell, over))
    await_only(over)
    return future.result()


def _tell(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
