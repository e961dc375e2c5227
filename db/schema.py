"""Whether a database has the schema that this code was written for. Alembic is not asked, since it takes long to import
and every program that submits a job does this."""

from pathlib import Path

from sqlalchemy import Engine, inspect, text

from db.environment import SettingsError

MIGRATIONS = Path(__file__).with_name("migrations")
# the files are named after their revisions, which count up
REVISIONS = sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
HEAD = REVISIONS[-1]


class WrongSchema(SettingsError):
    """The database has another schema than this code; the message says which, and what to run."""


def check_schema(engine: Engine) -> None:
    """Raise `WrongSchema` unless the database of `engine` has the schema of this code."""
    with engine.execution_options(reading=True).connect() as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found is None:
        raise WrongSchema("DATABASE_URL: the database has no tables yet; run `paymaster db upgrade`")
    if found not in REVISIONS:
        raise newer(found)
    if found != HEAD:
        raise WrongSchema(
            f"DATABASE_URL: the schema of the database is {found}, older than {HEAD}, which this version of Paymaster "
            "needs; run `paymaster db upgrade`"
        )


def newer(found: str) -> WrongSchema:
    """What to say of a schema of which this code knows nothing."""
    return WrongSchema(
        f"DATABASE_URL: the schema of the database is {found}, newer than {HEAD}, the newest that this version of "
        "Paymaster knows; run the version that upgraded it, or a later one"
    )
