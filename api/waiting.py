"""Waiting for jobs to be over, without a thread or a connection per waiter: one query at a time asks for all."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from db.jobs import over
from db.session import read

EVERY_S = 0.2
# what every database takes in one statement
MOST_IDS = 500

logger = logging.getLogger(__name__)


def _over(ids: Collection[str]) -> list[str]:
    listed = [*ids]
    with read() as session:
        return [found for n in range(0, len(listed), MOST_IDS) for found in over(session, listed[n : n + MOST_IDS])]


class Waiting:
    """Those who wait on one event loop."""

    def __init__(self, look: Callable[[Collection[str]], Sequence[str]] = _over) -> None:
        self._look = look
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    async def until_over(self, job_id: str, within_s: float) -> None:
        """Return when the job is over, or after so many seconds."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), within_s)
        finally:
            others = self._waiting.get(job_id, set())
            others.discard(event)
            if not others:
                self._waiting.pop(job_id, None)

    async def _watch(self) -> None:
        while self._waiting:
            try:
                for job_id in await run_in_threadpool(self._look, [*self._waiting]):
                    for event in self._waiting.pop(job_id, set()):
                        event.set()
            except SQLAlchemyError as error:
                logger.warning("waiting jobs could not be looked at: %s", type(error).__name__)
            await asyncio.sleep(EVERY_S)
