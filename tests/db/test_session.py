"""The engine: what its errors hold, and what its connections are bound to."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import db.session
from db.models import Job
from db.once import once_per_environment
from db.session import engine, read, write

pytestmark = pytest.mark.usefixtures("environment")

SECRET = "We look for a baker who keeps secrets"


def is_postgres() -> bool:
    return engine().dialect.name == "postgresql"


def test_an_error_quotes_no_row() -> None:
    with pytest.raises(IntegrityError) as caught, write() as session:
        session.add(Job(id="j", kind=None, queue="parse", payload={"job_description": SECRET}))
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error) + repr(error)
        error = error.__cause__ or error.__context__
    assert "kind" in str(caught.value)


def test_a_statement_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_STATEMENT_TIMEOUT_S", "1")
    once_per_environment.forget_all()
    if not is_postgres():
        pytest.skip("SQLite's statements have no time limit")
    with pytest.raises(OperationalError, match="statement timeout"), read() as session:
        session.execute(text("SELECT pg_sleep(20)"))
    with read() as session:
        asked = ("application_name", "idle_in_transaction_session_timeout", "transaction_isolation")
        found = [session.scalar(text(f"SHOW {name}")) for name in asked]
    assert found[0].startswith("paymaster ") and found[1:] == ["1min", "read committed"]


def test_what_the_url_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_postgres():
        pytest.skip("these are PostgreSQL's")
    url = engine().url.update_query_dict({"application_name": "ours", "options": "-c statement_timeout=7s"})
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    once_per_environment.forget_all()
    with read() as session:
        assert session.scalar(text("SHOW application_name")) == "ours"
        assert session.scalar(text("SHOW statement_timeout")) == "7s"


def test_no_more_connections_than_the_pool_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_POOL_SIZE", "3")
    monkeypatch.setattr(db.session, "POOL_TIMEOUT_S", 0.2)
    once_per_environment.forget_all()
    inside, leave = threading.Barrier(4), threading.Event()

    def hold(_: int) -> None:
        with read() as session:
            session.execute(text("SELECT 1"))
            inside.wait()
            leave.wait(60)

    with ThreadPoolExecutor(3) as pool:
        held = pool.map(hold, range(3))
        inside.wait()
        with pytest.raises(PoolTimeout), read() as session:
            session.execute(text("SELECT 1"))
        leave.set()
        list(held)
    with read() as session:
        session.execute(text("SELECT 1"))


@pytest.fixture
def writing_elsewhere() -> Iterator[sqlite3.Connection]:
    """Another program, which has SQLite's lock for writing."""
    with read():
        path = engine().url.database
    assert path is not None
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
    other.close()


def each_sleep(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], Any]) -> list[float]:
    """The seconds of each sleep of this thread, which does not sleep but calls `act` with the number of it."""
    sleeps: list[float] = []
    sleep, here = time.sleep, threading.get_ident()

    def instead(seconds: float) -> None:
        if threading.get_ident() != here:
            sleep(seconds)
            return
        sleeps.append(seconds)
        act(len(sleeps))

    monkeypatch.setattr(time, "sleep", instead)
    return sleeps


@pytest.mark.sqlite
def test_a_write_looks_for_the_lock_as_often_at_last_as_at_first(
    writing_elsewhere: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps = each_sleep(monkeypatch, lambda number: writing_elsewhere.execute("COMMIT") if number == 300 else None)
    with write() as session:
        session.add(Job(id="j", kind="parse", queue="parse", payload={}))
    assert sleeps == [db.session.SQLITE_LOOK_S] * 300
    with read() as session:
        assert session.get(Job, "j") is not None


@pytest.mark.sqlite
def test_a_lock_that_is_never_free_is_an_outage_of_the_database(
    writing_elsewhere: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.session, "SQLITE_BUSY_TIMEOUT_S", 0.05)
    with pytest.raises(OperationalError, match="database is locked"), write() as session:
        session.connection()
    writing_elsewhere.execute("COMMIT")
    with write() as session:
        session.add(Job(id="j", kind="parse", queue="parse", payload={}))


@pytest.mark.sqlite
def test_what_no_waiting_helps_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = each_sleep(monkeypatch, lambda number: None)
    with engine().execution_options(reading=True).connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(OperationalError, match="within a transaction"):
            db.session._begin_writing(connection)
    assert sleeps == []
