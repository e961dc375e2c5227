"""What the daily rollup costs on PostgreSQL: a million attempts of one day, among those of thirty others.

Prints JSON. `python -m benchmarks.rollup 100000` takes so many attempts instead. The server is one of its own, with
PostgreSQL's own settings; seconds are those of whole rounds, each measured once."""

import argparse
import json
import os
import signal
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, select, text

from db.migrate import upgrade
from db.models import Attempt, DailyCost, utc_now
from db.once import once_per_environment
from db.rollup import day_statement, days_statement
from db.rounds import MARGIN, ROLLUP, complete
from db.session import engine, write
from tests.postgres import running_postgres
from watch.rollup import roll_up

MILLION = 1_000_000
DAY = "2026-11-22"
OTHER_DAYS = 30
USERS = 5_000
CHANGED = 1_000

JOBS = """
INSERT INTO jobs (id, kind, state, queue, payload, total_cost_nano, created_at, runs)
SELECT 'j' || n, 'parse', 'succeeded', 'parse', '{}', 0, :now, 1 FROM generate_series(1, :attempts) AS n
"""
# two attempts a job, of which the first fails
ATTEMPTS = f"""
INSERT INTO model_performance_metrics (
    id, job_id, number, part, state, model_name, provider, task_type, user_id, api, strategy, reason, budget_day,
    budget_month, reserved_nano, cost_nano, cost_basis, success, tokens_used, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, processing_time_ms, created_at, settled_at)
SELECT
    md5(n::text), 'j' || (n + 1) / 2, 2 - n % 2, 0, CASE n % 2 WHEN 0 THEN 'succeeded' ELSE 'failed' END,
    (ARRAY['gpt-4o', 'gpt-4o-mini', 'claude-sonnet-4-20250514'])[1 + n % 3], 'openai',
    (ARRAY['parse', 'generate'])[1 + n / 7 % 2], CASE WHEN n % 50 > 0 THEN n % {USERS} END,
    (ARRAY['keywords', 'resume_tailor', NULL])[1 + n / 11 % 3], 'balanced', 'balanced_strategy_general_complexity',
    to_char(date '{DAY}' - days, 'YYYY-MM-DD'), to_char(date '{DAY}' - days, 'YYYY-MM'),
    20000000, n % 9000000, 'usage', n % 2 = 0, 1500, 1000, 500, 0, 0, 1200, settled, settled
FROM generate_series(1, 2 * :attempts) AS n,
LATERAL (SELECT CASE WHEN n <= :attempts THEN 0 ELSE 1 + n % {OTHER_DAYS} END AS days) AS d,
LATERAL (SELECT CAST(:now AS timestamptz) - days * interval '1 day' - n * interval '20 milliseconds' AS settled) AS s
"""
SOME_CHANGE = f"""
UPDATE model_performance_metrics SET cost_nano = cost_nano + 1, settled_at = :now
WHERE id IN (SELECT id FROM model_performance_metrics WHERE budget_day = '{DAY}' LIMIT {CHANGED})
"""


def fill(connection: Connection, attempts: int) -> None:
    """Twice as many attempts, half of them of the day, all settled."""
    values: dict[str, Any] = {"now": utc_now(), "attempts": attempts}
    connection.execute(text(JOBS), values)
    connection.execute(text(ATTEMPTS), values)


def seconds(what: Any) -> float:
    """How long it takes."""
    started = time.perf_counter()
    what()
    return round(time.perf_counter() - started, 2)


def plan(connection: Connection, statement: Any) -> list[str]:
    """PostgreSQL's plan."""
    compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
    return [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {compiled}")]


def is_exact(connection: Connection) -> bool:
    """Whether the rollup is what the attempts add up to."""
    rows = connection.execute(select(func.sum(DailyCost.total_cost_nano), func.sum(DailyCost.attempts))).one()
    return tuple(rows) == tuple(connection.execute(select(func.sum(Attempt.cost_nano), func.count(Attempt.id))).one())


def measure(attempts: int) -> dict[str, Any]:
    """Rounds one after another: the first, one of a day with nothing new, one after some more have settled."""
    upgrade()
    with engine().begin() as connection:
        filled = seconds(lambda: fill(connection, attempts))
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    # the other days are rolled up already, as after an ordinary night
    first = seconds(roll_up)
    with engine().begin() as connection:
        connection.execute(text("DELETE FROM model_cost_tracking WHERE date = :day"), {"day": DAY})
    with write() as session:
        session.execute(text("DELETE FROM rounds"))
        complete(session, ROLLUP, utc_now() - timedelta(hours=20))
    report: dict[str, Any] = {"attempts": attempts, "fill_s": filled, "first_round_of_all_days_s": first}
    report["days"] = days = []
    report["round_of_the_day_s"] = seconds(lambda: days.extend(roll_up()))
    report["round_with_nothing_new_s"] = seconds(roll_up)
    with engine().begin() as connection:
        connection.execute(text(SOME_CHANGE), {"now": utc_now()})
    report["round_after_more_settled_s"] = seconds(roll_up)
    with engine().connect() as connection:
        of_day = select(func.count()).where(DailyCost.date == DAY)
        report["rows_of_the_day"] = connection.execute(of_day).scalar_one()
        report["exact"] = is_exact(connection)
        report["plan_of_the_days"] = plan(connection, days_statement(utc_now() - MARGIN))
        report["plan_of_a_day"] = plan(connection, day_statement("postgresql", DAY))
    engine().dispose()
    return report


def main() -> None:
    """Start a server, measure, print, stop it: also on SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attempts", nargs="?", type=int, default=MILLION)
    parser.add_argument("--short", action="store_true", help="few attempts: whether it works")
    options = parser.parse_args()
    attempts = 2000 if options.short else options.attempts
    with running_postgres({}) as url:
        os.environ["DATABASE_URL"] = url
        once_per_environment.forget_all()
        print(json.dumps(measure(attempts), indent=2))


if __name__ == "__main__":
    main()
