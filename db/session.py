"""The engine of this process, and its kinds of transaction: `read()`, `snapshot()` and `write()`."""

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.orm import Session

from db.environment import SettingsError, read_settings
from db.once import once_per_environment
from db.schema import check_schema
from db.settings import DatabaseSettings

SQLITE_BUSY_TIMEOUT_S = 30
SQLITE_LOOK_S = 0.001
# how long a thread waits for a connection while others have them all
POOL_TIMEOUT_S = 10
# so that connections move on to another server, and what is idle is not kept for days
RECYCLE_S = 1800
# A server that is gone without a word is found out, since one thread commits for all: at connecting, between
# statements, and within one. What the URL says itself holds instead.
ABOUT_CONNECTIONS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# what a process that hangs in a transaction has locked is free again
IDLE_IN_TRANSACTION_S = 60


@once_per_environment
def engine() -> Engine:
    """The engine of this process, made at first use."""
    return create_paymaster_engine(read_settings(DatabaseSettings).url)


def create_paymaster_engine(url: str) -> Engine:
    """An engine for `url`, whose errors hold no parameters: those are postings.

    SQLite runs in WAL, waits for its lock, and syncs every commit: an attempt's row must outlive a power cut,
    since the money leaves right after it."""
    parsed = make_url(url)
    settings = read_settings(DatabaseSettings)
    pool: dict[str, Any] = {
        "pool_size": settings.database_pool_size,
        # beyond the pool a connection would be made for one statement, and thrown away
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "hide_parameters": True,
    }
    if parsed.get_backend_name() != "sqlite":
        given = _about_connections(parsed, settings.database_statement_timeout_s)
        postgres = create_engine(
            parsed,
            **pool,
            connect_args=given,
            pool_pre_ping=True,
            pool_recycle=RECYCLE_S,
            # the last one used is used first, so that those for rushes are idle
            pool_use_lifo=True,
            # whatever the server's default is: what runs at once was thought through for this
            isolation_level="READ COMMITTED",
        )
        event.listen(postgres, "handle_error", _hide_rows)
        return postgres
    if parsed.database in (None, "", ":memory:"):
        raise SettingsError("DATABASE_URL: SQLite needs a file, such as sqlite:///paymaster.db")
    sqlite = create_engine(
        parsed,
        **pool,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
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
        if reading:
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_writing(connection)

    return sqlite


def _begin_writing(connection: Connection) -> None:
    """Take SQLite's lock for writing soon after it is free. SQLite itself looks less and less often, at last ten times
    a second, so that a process with little to write would starve beside one with much."""
    sqlite: Any = connection.connection.dbapi_connection
    until = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    sqlite.execute("PRAGMA busy_timeout = 0")
    try:
        while time.monotonic() < until:
            try:
                sqlite.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
            time.sleep(SQLITE_LOOK_S)
        # it fails, as an error of SQLAlchemy's
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        sqlite.execute(f"PRAGMA busy_timeout = {int(1000 * SQLITE_BUSY_TIMEOUT_S)}")


def _about_connections(url: URL, statement_timeout_s: int) -> dict[str, Any]:
    limits = {
        "statement_timeout": statement_timeout_s,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_S,
    }
    ours = ABOUT_CONNECTIONS | {
        "application_name": f"paymaster {Path(sys.argv[0]).name}"[:63],
        "options": " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items()),
    }
    return {name: value for name, value in ours.items() if name not in url.query}


def _hide_rows(context: ExceptionContext) -> None:
    """PostgreSQL quotes the whole row that breaks a rule, whatever is hidden on our side."""
    primary = getattr(getattr(context.original_exception, "diag", None), "message_primary", None)
    if primary is not None:
        context.original_exception.args = (primary,)
        if context.sqlalchemy_exception is not None:
            kind = type(context.original_exception).__name__
            context.sqlalchemy_exception.args = (f"({kind}) {primary}",)


@once_per_environment
def checked_engine() -> Engine:
    """The same, once its database is known to have the schema of this code; `WrongSchema` says what to do if not."""
    check_schema(engine())
    return engine()


@contextmanager
def read() -> Iterator[Session]:
    """A session for reading; nothing is committed."""
    with Session(checked_engine().execution_options(reading=True)) as session:
        yield session


@contextmanager
def write() -> Iterator[Session]:
    """A session in one transaction: committed at the end, rolled back on any exception."""
    with Session(checked_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def snapshot() -> Iterator[Session]:
    """A session for reading whose statements all see the same moment."""
    options: dict[str, Any] = {"reading": True}
    if checked_engine().dialect.name != "sqlite":
        # SQLite's transactions are snapshots anyway
        options["isolation_level"] = "REPEATABLE READ"
    with Session(checked_engine().execution_options(**options)) as session:
        yield session
