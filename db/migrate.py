"""Bring the database to the schema that this code wants."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from db.session import engine


def upgrade(revision: str = "head") -> None:
    """Create or migrate all tables, in one transaction. Two at once wait for each other on SQLite."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    if engine().dialect.name == "sqlite":
        Path(str(engine().url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    with engine().begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
