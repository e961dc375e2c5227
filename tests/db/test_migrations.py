"""The migrations and the models say the same, there and back."""

import warnings
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect, select, text

import db.migrate
from db.migrate import upgrade
from db.models import Attempt, Base
from db.session import engine, read

pytestmark = pytest.mark.usefixtures("environment")


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(db.migrate.__file__).with_name("migrations")))
    return made


def downgrade(revision: str) -> None:
    made = config()
    with engine().begin() as connection:
        made.attributes["connection"] = connection
        command.downgrade(made, revision)


def differences() -> list[object]:
    with engine().connect() as connection, warnings.catch_warnings():
        # SQLAlchemy does not read the text of SQLite's generated columns: test_job_queries.py tests their values
        warnings.filterwarnings("ignore", "Computed default on")
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        return list(compare_metadata(context, Base.metadata))


def tables() -> set[str]:
    return set(inspect(engine()).get_table_names())


def test_the_migrations_make_what_the_models_want() -> None:
    assert differences() == []


def test_a_table_of_the_models_that_no_migration_makes_would_be_found() -> None:
    with engine().connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, MetaData()) != []


def test_down_to_nothing_and_up_again_is_the_same() -> None:
    before = tables()
    assert {"jobs", "model_performance_metrics", "job_vectors", "alembic_version"} <= before
    downgrade("base")
    assert tables() == {"alembic_version"}
    upgrade()
    assert tables() == before
    assert differences() == []


def test_every_revision_goes_down_and_up_one_by_one() -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]
    for _ in revisions:
        downgrade("-1")
    for revision in reversed(revisions):
        upgrade(revision)
    assert differences() == []


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(config()).get_heads()) == 1


def test_upgrading_again_changes_nothing() -> None:
    upgrade()
    assert differences() == []


def test_the_names_of_the_customers_tables_and_columns() -> None:
    inspector = inspect(engine())
    columns = {column["name"] for column in inspector.get_columns("model_performance_metrics")}
    assert columns >= {
        "model_name", "task_type", "processing_time_ms", "tokens_used", "cost_usd", "quality_score", "success",
        "created_at",
    }  # fmt: skip
    columns = {column["name"] for column in inspector.get_columns("jobs")}
    assert columns >= {"model_selection_strategy", "model_metadata", "total_cost_usd"}


def test_what_attempts_of_before_cost_is_known_by_their_outcome() -> None:
    downgrade("0001")
    rows = {
        "ok": ("succeeded", 5, 10), "no usage": ("succeeded", 9, 0), "lost": ("unknown", 9, 0),
        "refused": ("failed", 0, 0), "useless": ("failed", 4, 8), "under way": ("calling", 0, 0),
    }  # fmt: skip
    with engine().begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, kind, state, queue, payload, total_cost_nano, created_at, runs)"
                " VALUES ('j', 'parse', 'running', 'parse', '{}', 0, '2026-11-01 00:00:00', 1)"
            )
        )
        for number, (name, (state, cost, tokens)) in enumerate(rows.items()):
            connection.execute(
                text(
                    "INSERT INTO model_performance_metrics (id, job_id, number, part, state, model_name, provider,"
                    " task_type, strategy, reason, budget_day, budget_month, reserved_nano, cost_nano, tokens_used,"
                    " input_tokens, output_tokens, cached_tokens, reasoning_tokens, created_at) VALUES (:id, 'j', :n,"
                    " 0, :state, 'm', 'p', 'parse', 's', 'r', '2026-11-01', '2026-11', 9, :cost, :tokens, 0, 0, 0, 0,"
                    " '2026-11-01 00:00:00')"
                ),
                {"id": name, "n": number, "state": state, "cost": cost, "tokens": tokens},
            )
    upgrade()
    with read() as session:
        found = {attempt.id: attempt.cost_basis for attempt in session.scalars(select(Attempt))}
    assert found == {
        "ok": "usage", "no usage": "reservation", "lost": "reservation", "refused": "not_billed", "useless": "usage",
        "under way": None,
    }  # fmt: skip
