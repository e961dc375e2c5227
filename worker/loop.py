"""What a job has done elsewhere: its provider calls on the event loop, what blocks in a thread."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from celery import _state
from sqlalchemy.util.concurrency import await_only

from db.loop import event_loop, on_loop, wait_for
from db.once import once_per_process

# what blocks does so while a server is away, and then for many jobs
MOST_THREADS = 100

P = ParamSpec("P")
T = TypeVar("T")

# what cancels each call
_under_way: set[Callable[[], Any]] = set()


@once_per_process
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="blocking")


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the process' event loop and wait for it; raises what it raised, and
    `concurrent.futures.CancelledError` after `cancel_all`."""
    give_up: Callable[[], Any]
    wait: Callable[[], T]
    if on_loop():
        # a task of its own, so that whoever cancels it never meets what its job does next
        task = event_loop().create_task(work)
        give_up, wait = partial(event_loop().call_soon_threadsafe, task.cancel), partial(await_only, task)
    else:
        future = asyncio.run_coroutine_threadsafe(work, event_loop())
        give_up, wait = future.cancel, future.result
    _under_way.add(give_up)
    try:
        return wait()
    except asyncio.CancelledError:
        raise CancelledError from None
    finally:
        _under_way.discard(give_up)


def cancel_all() -> int:
    """Cancel what is under way; how much that was."""
    calls = list(_under_way)
    for give_up in calls:
        give_up()
    return len(calls)


def blocking(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator for what waits for a server, such as reading from SQL or publishing a message: a job on the loop has
    it done in a thread, where Celery finds the task and its request as here. Whoever else calls it does it himself."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        if not on_loop():
            return function(*arguments, **options)
        task: Any = _state.get_current_worker_task()
        work = partial(function, *arguments, **options)
        there = work if task is None else partial(_as_task, task, task.request_stack.top, work)
        return wait_for(_threads().submit(copy_context().run, there))

    return call


def _as_task(task: Any, request: Any, work: Callable[[], T]) -> T:
    running: Any = vars(_state)["_task_stack"]
    running.push(task)
    task.request_stack.push(request)
    try:
        return work()
    finally:
        task.request_stack.pop()
        running.pop()


def wait_until(event: threading.Event, within_s: float) -> bool:
    """Wait for an event, so long at most, and whether it has come; a job on the loop finds out at the end."""
    if not on_loop():
        return event.wait(within_s)
    await_only(asyncio.sleep(within_s))
    return event.is_set()
