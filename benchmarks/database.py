"""What a million jobs and attempts take in SQL: bytes, how each statement is done, and how long.

Prints JSON. `python -m benchmarks.database postgresql 100000` takes so many rows; `sqlite` is the other database. The
PostgreSQL server is one of its own, with PostgreSQL's own settings. Milliseconds are the least of five runs, each
rolled back; a statement that takes longer than a second is run once."""

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from db.migrate import upgrade
from db.once import once_per_environment
from db.retention import prune
from db.session import engine
from tests.db.statements import EVERY_FEW_SECONDS, LARGE, PER_JOB, PER_PAGE, fill, noted, plan
from tests.postgres import running_postgres

MILLION = 1_000_000
RUNS = 5
SIZES = """
SELECT relname, pg_relation_size(oid), pg_indexes_size(oid), pg_total_relation_size(oid) FROM pg_class
WHERE relname IN ('jobs', 'model_performance_metrics')
"""
INDEXES = """
SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes
WHERE relname IN ('jobs', 'model_performance_metrics')
"""


def milliseconds(run: Callable[[Session], Any]) -> float:
    """The least time of some runs."""
    times: list[float] = []
    for _ in range(RUNS):
        with Session(engine()) as session:
            started = time.perf_counter()
            run(session)
            session.flush()
            times.append(1000 * (time.perf_counter() - started))
            session.rollback()
        if times[0] > 1000:
            break
    return round(min(times), 2)


def plans(run: Callable[[Session], Any]) -> list[str]:
    """The steps of all its statements."""
    with Session(engine()) as session, noted(engine()) as seen:
        run(session)
        session.flush()
        session.rollback()
    with engine().connect() as connection:
        return [line.rstrip() for one in seen for line in plan(connection, *one).splitlines()]


def sizes(connection: Connection, rows: int) -> dict[str, Any]:
    """Bytes a row, of the table and of its indexes."""
    if connection.dialect.name == "sqlite":
        pages = connection.execute(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
        return {"bytes_per_job_with_an_attempt": round(pages.scalar_one() / rows)}
    tables = {
        name: {"rows": round(heap / rows), "indexes": round(indexes / rows), "all": round(total / rows)}
        for name, heap, indexes, total in connection.execute(text(SIZES))
    }
    return {
        "bytes_per_row": tables,
        "of_indexes": {n: round(s / rows, 1) for n, s in connection.execute(text(INDEXES))},
    }


def measure(rows: int) -> dict[str, Any]:
    """All of it, on the database of the environment."""
    upgrade()
    started = time.perf_counter()
    with engine().begin() as connection:
        fill(connection, rows)
    report: dict[str, Any] = {"rows": rows, "fill_s": round(time.perf_counter() - started, 1)}
    if engine().dialect.name == "postgresql":
        with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    with engine().connect() as connection:
        report |= sizes(connection, rows)
    for name, group in (("per_job", PER_JOB), ("often", EVERY_FEW_SECONDS), ("page", PER_PAGE), ("large", LARGE)):
        report[name] = {what: {"ms": milliseconds(run), "plan": plans(run)} for what, run in group.items()}
    started = time.perf_counter()
    pruned = prune(29)
    report["prune"] = {"jobs": pruned, "s": round(time.perf_counter() - started, 1)}
    return report


@contextmanager
def database(dialect: str) -> Iterator[str]:
    """The URL of an empty database."""
    if dialect == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/benchmark.db"
    else:
        with running_postgres({}) as url:
            yield url


def main() -> None:
    """Start a server, measure, print, stop it: also on SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dialect", nargs="?", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("rows", nargs="?", type=int, default=MILLION)
    parser.add_argument("--short", action="store_true", help="SQLite, with few rows: whether it works")
    options = parser.parse_args()
    dialect, rows = ("sqlite", 1000) if options.short else (options.dialect, options.rows)
    os.environ["DATABASE_STATEMENT_TIMEOUT_S"] = "0"
    with database(dialect) as url:
        os.environ["DATABASE_URL"] = url
        once_per_environment.forget_all()
        print(json.dumps(measure(rows), indent=2))
        once_per_environment.forget_all()


if __name__ == "__main__":
    main()
