"""Bring the database to the schema that this code wants."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from db.schema import MIGRATIONS, REVISIONS, newer
from db.session import engine

# of PostgreSQL's advisory locks; any number that nobody else takes
LOCK = 7_296_637_837


def upgrade(revision: str = "head") -> None:
    """Create or migrate all tables, in one transaction. Two at once wait for each other, and the second finds
    nothing to do. Raises `WrongSchema` if the database is newer than this code."""
    with _one_at_a_time() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(revision: str) -> None:
    """Back to that revision, as far as rows can go: what only newer columns hold is gone."""
    with _one_at_a_time() as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def _one_at_a_time() -> Iterator[Connection]:
    if engine().dialect.name == "sqlite":
        Path(str(engine().url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    with engine().begin() as connection:
        if connection.dialect.name == "postgresql":
            # an index of a large table takes as long as it takes
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            if found is not None and found not in REVISIONS:
                raise newer(found)
        yield connection


def _config(connection: Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made
