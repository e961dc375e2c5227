"""Group commit: every write comes back with its own result or its own error, and only once it is durable."""

import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from db.models import Job
from db.session import engine, read
from db.writer import LARGEST_GROUP, GroupWriter, group_writer

pytestmark = pytest.mark.usefixtures("environment")


def new(job_id: str) -> Job:
    return Job(id=job_id, kind="parse", queue="parse", payload={})


def insert(job_id: str) -> Callable[[Session], str]:
    def work(session: Session) -> str:
        session.add(new(job_id))
        session.flush()
        return f"wrote {job_id}"

    return work


def count() -> int:
    with read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def durable(job_id: str) -> bool:
    """Whether another connection, outside SQLAlchemy, sees the job."""
    if engine().dialect.name == "sqlite":
        with sqlite3.connect(str(engine().url.database)) as other:
            return other.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None
    with psycopg.connect(os.environ["DATABASE_URL"]) as another:
        return another.execute("SELECT 1 FROM jobs WHERE id = %s", (job_id,)).fetchone() is not None


class Gate:
    """Holds a writer in its first write, so that what comes meanwhile is one group."""

    def __init__(self, writer: GroupWriter) -> None:
        self.open = threading.Event()
        self.inside = threading.Event()
        self.thread = threading.Thread(target=writer.commit, args=(self._wait,))
        self.thread.start()
        assert self.inside.wait(10)

    def _wait(self, _: Session) -> None:
        self.inside.set()
        assert self.open.wait(10)


def commit_as_one_group(writer: GroupWriter, works: list[Callable[[Session], Any]]) -> list[Any]:
    """What each write got, its result or its exception, when all of them gathered in one group."""

    def commit(work: Callable[[Session], Any]) -> Any:
        try:
            return writer.commit(work)
        except Exception as error:
            return error

    gate = Gate(writer)
    with ThreadPoolExecutor(len(works)) as pool:
        futures = []
        for number, work in enumerate(works, start=1):
            futures.append(pool.submit(commit, work))
            while writer._waiting.qsize() < number:
                pass
        gate.open.set()
        found = [future.result(timeout=30) for future in futures]
    gate.thread.join()
    return found


def test_a_write_returns_its_result_and_is_durable_by_then() -> None:
    assert group_writer().commit(insert("a")) == "wrote a"
    assert durable("a")


def test_what_a_write_returns_can_be_used_after_the_commit() -> None:
    def work(session: Session) -> Job:
        job = new("a")
        session.add(job)
        return job

    assert group_writer().commit(work).id == "a"


def test_a_failing_write_raises_to_its_caller_and_leaves_nothing() -> None:
    def fail(session: Session) -> None:
        session.add(new("a"))
        session.flush()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        group_writer().commit(fail)
    assert count() == 0
    assert group_writer().commit(insert("b")) == "wrote b"


def test_an_error_at_the_commit_itself_is_raised_too() -> None:
    group_writer().commit(insert("a"))
    with pytest.raises(IntegrityError):
        group_writer().commit(lambda session: session.add(new("a")))


def test_the_writes_of_a_group_share_one_commit() -> None:
    sessions: set[int] = set()

    def work(name: str) -> Callable[[Session], str]:
        def run(session: Session) -> str:
            sessions.add(id(session))
            return insert(name)(session)

        return run

    found = commit_as_one_group(GroupWriter(), [work(f"j{n}") for n in range(10)])
    assert found == [f"wrote j{n}" for n in range(10)]
    assert len(sessions) == 1
    assert count() == 10


@pytest.mark.parametrize("culprit", [0, 4, 9])
@pytest.mark.parametrize("how", ["raise", "flush", "commit"])
def test_one_bad_write_harms_no_other_of_its_group(culprit: int, how: str) -> None:
    group_writer().commit(insert("there already"))

    def bad(session: Session) -> None:
        session.add(new("there already" if how != "raise" else "half"))
        if how == "flush":
            session.flush()
        if how == "raise":
            session.flush()
            raise LookupError("mine")

    works: list[Callable[[Session], Any]] = [insert(f"j{n}") for n in range(10)]
    works[culprit] = bad
    found = commit_as_one_group(GroupWriter(), works)
    for number, outcome in enumerate(found):
        if number == culprit:
            assert isinstance(outcome, LookupError if how == "raise" else IntegrityError)
        else:
            assert outcome == f"wrote j{number}"
            assert durable(f"j{number}")
    assert count() == 10
    assert not durable("half")


def test_every_bad_write_of_a_group_gets_its_own_error() -> None:
    def fail(number: int) -> Callable[[Session], None]:
        def work(_: Session) -> None:
            raise LookupError(f"number {number}")

        return work

    works: list[Callable[[Session], Any]] = [fail(0), insert("a"), fail(2), insert("b"), fail(4)]
    found = commit_as_one_group(GroupWriter(), works)
    assert [str(outcome) for outcome in found] == ["number 0", "wrote a", "number 2", "wrote b", "number 4"]


def test_a_database_that_is_away_is_tried_once_for_a_group() -> None:
    """Each with its own time to connect, the last of a group would wait for all those before it."""
    tries = []

    def away(*_: object) -> Any:
        tries.append(1)
        raise OperationalError("connect", {}, Exception("refused"))

    with read():  # its schema is known
        pass
    engine().dispose()
    event.listen(engine(), "do_connect", away)
    group = [(insert(f"j{number}"), Future[Any]()) for number in range(20)]
    GroupWriter()._commit_group(group)
    assert {type(future.exception(0)) for _, future in group} == {OperationalError}
    assert len(tries) == 1
    event.remove(engine(), "do_connect", away)
    assert count() == 0


def test_many_threads_each_find_their_own_write_durable() -> None:
    def commit(number: int) -> bool:
        return group_writer().commit(insert(f"j{number}")) == f"wrote j{number}" and durable(f"j{number}")

    with ThreadPoolExecutor(60) as pool:
        assert all(pool.map(commit, range(300)))
    assert count() == 300


def test_a_group_has_a_largest_size() -> None:
    # the sessions themselves: of one that is gone, the next may have the id
    sizes: dict[Session, int] = {}

    def work(session: Session) -> None:
        sizes[session] = sizes.get(session, 0) + 1

    writer = GroupWriter()
    gate = Gate(writer)
    futures: list[threading.Thread] = [
        threading.Thread(target=writer.commit, args=(work,)) for _ in range(LARGEST_GROUP + 1)
    ]
    for thread in futures:
        thread.start()
    while writer._waiting.qsize() < len(futures):
        pass
    gate.open.set()
    for thread in [*futures, gate.thread]:
        thread.join(30)
    assert max(sizes.values()) <= LARGEST_GROUP
    assert sum(sizes.values()) == LARGEST_GROUP + 1


class Stop(BaseException):
    """Not an `Exception`, like `SystemExit` and `CancelledError`."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_write_that_stops_the_world_stops_its_caller_only() -> None:
    def stop(_: Session) -> None:
        raise Stop

    writer = GroupWriter()
    caught: list[BaseException] = []

    def commit() -> None:
        try:
            writer.commit(stop)
        except Stop as error:
            caught.append(error)

    for act in (commit, lambda: writer.commit(insert("after"))):
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(2)
        assert not thread.is_alive(), "the writer's thread is gone, its callers wait for ever"
    assert len(caught) == 1
    assert durable("after")


def test_a_database_that_is_away_is_not_asked_once_more_for_each_write_of_a_group() -> None:
    writer, tries = GroupWriter(), []

    def away(_: Session) -> None:
        tries.append(1)
        raise OperationalError("insert", {}, Exception("database is locked"))

    gate = Gate(writer)
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(writer.commit, away) for _ in range(8)]
        while writer._waiting.qsize() < 8:
            pass
        gate.open.set()
        for one in waiting:
            with pytest.raises(OperationalError):
                one.result(30)
    gate.thread.join()
    # the group, and one alone
    assert len(tries) == 2
    writer.commit(insert("after"))
    assert durable("after")
