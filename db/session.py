"""The engine of this process, and its kinds of transaction: `read()`, `snapshot()` and `write()`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from db.environment import SettingsError, read_settings
from db.once import once_per_environment
from db.settings import DatabaseSettings

SQLITE_BUSY_TIMEOUT_S = 30


@once_per_environment
def engine() -> Engine:
    """The engine of this process, made at first use."""
    return create_paymaster_engine(read_settings(DatabaseSettings).url)


def create_paymaster_engine(url: str) -> Engine:
    """An engine for `url`, whose errors hold no parameters: those are postings.

    SQLite runs in WAL, waits for its lock, and syncs every commit: an attempt's row must outlive a power cut,
    since the money leaves right after it."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_size=5, max_overflow=20, hide_parameters=True)
    if parsed.database in (None, "", ":memory:"):
        raise SettingsError("DATABASE_URL: SQLite needs a file, such as sqlite:///paymaster.db")
    sqlite = create_engine(
        parsed,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
        pool_size=5,
        max_overflow=20,
        hide_parameters=True,
    )

    @event.listens_for(sqlite, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # pysqlite would begin on its own, and deferred; see _begin
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(sqlite, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails with "database is locked", whatever the
        # timeout; taking the write lock at once waits instead.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return sqlite


@contextmanager
def read() -> Iterator[Session]:
    """A session for reading; nothing is committed."""
    with Session(engine().execution_options(reading=True)) as session:
        yield session


@contextmanager
def write() -> Iterator[Session]:
    """A session in one transaction: committed at the end, rolled back on any exception."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def snapshot() -> Iterator[Session]:
    """A session for reading whose statements all see the same moment."""
    options: dict[str, Any] = {"reading": True}
    if engine().dialect.name != "sqlite":
        # SQLite's transactions are snapshots anyway
        options["isolation_level"] = "REPEATABLE READ"
    with Session(engine().execution_options(**options)) as session:
        yield session
