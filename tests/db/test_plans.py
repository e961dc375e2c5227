"""Nothing that runs for every job, every few seconds or for every page walks through a table that grows."""

import re

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.session import engine
from tests.db.statements import EVERY_FEW_SECONDS, PER_JOB, PER_PAGE, fill, noted, plan

pytestmark = pytest.mark.usefixtures("environment")

ROWS = 20_000
# `Seq Scan on jobs`, of PostgreSQL; `SCAN jobs`, of SQLite: with an index that holds the wanted order it is no harm
WALKS = re.compile(r"Seq Scan on (jobs|model_performance_metrics)|SCAN (jobs|model_performance_metrics)(?! USING)")


# where another index would be found, and do worse
BY = {
    "record of the models": "ix_attempts_created",
    "live jobs": "ix_jobs_live",
    "jobs to prune": "ix_jobs_whole",
    "jobs of a user": "ix_jobs_user_created",
    "unknown costs": "ix_attempts_unknown",
    "users charged": "ix_attempts_settled",
}


def plans(statements: dict[str, object]) -> dict[str, str]:
    """How each would be done among many rows."""
    found = {}
    with engine().begin() as connection:
        fill(connection, ROWS)
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))
    for name, run in statements.items():
        with Session(engine()) as session, noted(engine()) as seen:
            run(session)
            session.flush()
            session.rollback()
        assert seen, name
        with engine().connect() as connection:
            found[name] = "\n".join(plan(connection, *one) for one in seen)
    return found


def test_what_runs_often_finds_its_rows_by_an_index() -> None:
    found = plans(PER_JOB | EVERY_FEW_SECONDS | PER_PAGE)
    assert {name: steps for name, steps in found.items() if WALKS.search(steps)} == {}
    assert {name: found[name] for name, index in BY.items() if index not in found[name]} == {}


def test_a_walk_would_be_found() -> None:
    with engine().begin() as connection:
        connection.execute(text("DROP INDEX ix_attempts_created"))
        connection.execute(text("DROP INDEX ix_attempts_settled"))
    found = plans({name: EVERY_FEW_SECONDS[name] for name in ("record of the models", "users charged")})
    assert all(WALKS.search(steps) for steps in found.values()), found
