"""Celery's pool of threads, but jobs that only wait share the event loop: a thread each would take a fifth of a job's
CPU."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.concurrency import thread
from celery.concurrency.base import apply_target
from celery.utils import threads
from sqlalchemy.util.concurrency import greenlet_spawn

from db.loop import event_loop

logger = logging.getLogger(__name__)

Threads: Any = thread.TaskPool


class TaskPool(Threads):  # type: ignore[misc]  # celery-types knows little of it
    """Runs `limit` jobs on the loop at once, and as many tasks in threads: maintenance, and whatever else Celery is
    given. A task says where by its `on_loop`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # these two are the loop's own
        self._waiting: deque[Callable[[], None]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **options: Any,
    ) -> Any:
        """Celery's own."""
        # with Celery's fast locals all that runs in one thread would be one task to it
        if vars(threads).get("USE_FAST_LOCALS") or not getattr(self.app.tasks.get(args[0]), "on_loop", False):
            return super().on_apply(target, args, kwargs, callback, accept_callback, **options)
        job = partial(apply_target, target, args, kwargs, callback, accept_callback)
        event_loop().call_soon_threadsafe(self._take, job)
        return None

    def _take(self, job: Callable[[], None]) -> None:
        self._waiting.append(job)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.limit:
            running = event_loop().create_task(self._run(self._waiting.popleft()))
            self._running.add(running)
            running.add_done_callback(self._ended)

    async def _run(self, job: Callable[[], None]) -> None:
        try:
            await greenlet_spawn(job)
        except BaseException as error:  # whatever it is, the other jobs of the loop go on
            logger.error("unforeseen %s in Celery's own code", type(error).__name__, exc_info=error)

    def _ended(self, ended: asyncio.Task[None]) -> None:
        self._running.discard(ended)
        self._start()

    def on_stop(self) -> None:
        """Wait for what is running. What is not is the broker's, or the sweeper's."""
        asyncio.run_coroutine_threadsafe(self._finish(), event_loop()).result()
        super().on_stop()

    async def _finish(self) -> None:
        self._waiting.clear()
        if self._running:
            await asyncio.wait(self._running)

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "jobs-on-loop": len(self._running)}
