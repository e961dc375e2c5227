"""The migrations and the models say the same, there and back."""

import re
import warnings

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, select, text

from db.migrate import downgrade, upgrade
from db.models import Attempt, Base
from db.schema import REVISIONS
from db.session import engine, read
from tests.db.statements import fill

pytestmark = pytest.mark.usefixtures("environment")


def differences() -> list[object]:
    with engine().connect() as connection, warnings.catch_warnings():
        # SQLAlchemy does not read the text of SQLite's generated columns: test_job_queries.py tests their values
        warnings.filterwarnings("ignore", "Computed default on")
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        return list(compare_metadata(context, Base.metadata)) + conditions(connection)


def conditions(connection: Connection) -> list[object]:
    """Partial indexes whose condition is another than the model's, of which Alembic knows nothing."""
    catalogues = {
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    }
    dialect = connection.dialect.name
    made = dict(list(connection.execute(text(catalogues[dialect]))))
    wrong: list[object] = []
    for table in Base.metadata.tables.values():
        for index in table.indexes:
            wanted = index.dialect_options[dialect]["where"]
            found = made[str(index.name)].partition(" WHERE ")[2]
            # PostgreSQL writes it down in its own words, with the same names and values
            if words(str(wanted) if wanted is not None else "") != words(found):
                wrong.append((index.name, wanted, found))
    return wrong


def words(condition: str) -> set[str]:
    return set(re.findall(r"'\w+'|\b[a-z]+_(?:at|basis)\b|\bNOT\b", condition))


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
    for _ in REVISIONS:
        downgrade("-1")
    for revision in REVISIONS:
        upgrade(revision)
    assert differences() == []


def test_a_condition_that_differs_would_be_found() -> None:
    with engine().begin() as connection:
        connection.execute(text("DROP INDEX ix_attempts_unknown"))
        columns = "model_performance_metrics (created_at) WHERE cost_basis = 'usage'"
        connection.execute(text(f"CREATE INDEX ix_attempts_unknown ON {columns}"))
    assert [name for name, *_ in differences()] == ["ix_attempts_unknown"]  # type: ignore[misc]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_rows_outlive_the_way_down_and_up(revision: str) -> None:
    """What an older schema can hold stays as it was; the rest is gone, or its default."""
    with engine().begin() as connection:
        fill(connection, 2000)
    before = rows()
    downgrade(revision)
    with engine().connect() as connection:
        inspector = inspect(connection)
        kept = {name: {c["name"] for c in inspector.get_columns(name)} for name in before}
    upgrade()
    after = rows()
    for name, columns in kept.items():
        assert len(before[name]) == len(after[name]) == 2000
        same = [{column: row[column] for column in columns} for row in before[name]]
        assert [{column: row[column] for column in columns} for row in after[name]] == same
    assert differences() == []


def rows() -> dict[str, list[dict[str, object]]]:
    with engine().connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
            for name, table in Base.metadata.tables.items()
            if name in ("jobs", "model_performance_metrics")
        }


def test_what_only_the_newer_schema_holds_goes_and_comes_back_empty() -> None:
    with engine().begin() as connection:
        fill(connection, 10)
        connection.execute(text("UPDATE jobs SET pruned_at = finished_at, idempotency_key = id"))
    downgrade("0002")
    assert "rounds" not in tables() and "changes" in tables()
    upgrade()
    found = rows()["jobs"]
    assert {(row["pruned_at"], row["idempotency_key"], row["forgiven"]) for row in found} == {(None, None, 0)}


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
