"""Group commit: the writes of one process that gather while another group commits share one transaction.

A caller goes on only when its own write is committed, so a shared commit is as durable as an own one and
costs a fraction. If a group fails, its writes are tried one by one, so that none suffers for another; but not where
the database is away, which would keep all of them waiting for each other's timeouts.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from db.loop import wait_for
from db.once import once_per_environment
from db.session import write

LARGEST_GROUP = 200
# how long a write waits for company, if the one before it had some: a job more or less hurries nobody then
GATHER_S = 0.004

T = TypeVar("T")
Write = Callable[[Session], Any]


class GroupWriter:
    """Runs writes on a thread of its own. A write must touch nothing but its session: it may run twice."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Write, Future[Any]]] = queue.SimpleQueue()
        self._in_company = False
        threading.Thread(target=self._run, name="db-writer", daemon=True).start()

    def commit(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction and return its result once that is committed; raises what it raised."""
        future: Future[T] = Future()
        self._waiting.put((work, future))
        return wait_for(future)

    def _run(self) -> None:
        while True:
            self._commit_group(self._gather())

    def _gather(self) -> list[tuple[Write, Future[Any]]]:
        group = [self._waiting.get()]
        if self._in_company:
            time.sleep(GATHER_S)
        try:
            while len(group) < LARGEST_GROUP:
                group.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        self._in_company = len(group) > 1
        return group

    def _commit_group(self, group: list[tuple[Write, Future[Any]]]) -> None:
        connected = False
        try:
            with write() as session:
                session.connection()
                connected = True
                results = [work(session) for work, _ in group]
        except BaseException as error:  # whatever it is, it is the caller's, and this thread goes on
            if len(group) == 1 or not connected or _is_lost(error):
                for _, future in group:
                    future.set_exception(error)
            else:
                self._commit_singly(group)
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)

    def _commit_singly(self, group: list[tuple[Write, Future[Any]]]) -> None:
        while group:
            single = group.pop(0)
            self._commit_group([single])
            error = single[1].exception()
            if isinstance(error, OperationalError):
                # not the write's fault: the database is away or locked, and would let each of the others wait as long
                for _, future in group:
                    future.set_exception(error)
                return


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone. Its last commit may have been made all the same."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


@once_per_environment
def group_writer() -> GroupWriter:
    """The writer of this process, started at first use."""
    return GroupWriter()
