"""The engine: what its errors hold, and what its connections are bound to."""

import threading
from concurrent.futures import ThreadPoolExecutor

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
