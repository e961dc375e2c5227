"""The statements that run for every job, every few seconds or for every page, and the rows to try them on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.orm import Session

from budget.figures import figures
from budget.periods import Periods
from db import alerts, attempts, changes, jobs, objectives, reports, retention, rollup, standing, statistics
from db.jobs import Parked
from db.models import Attempt, utc_now
from db.reports import CALLING
from db.retention import BATCH

NOW = utc_now()
TODAY, MONTH = f"{NOW:%Y-%m-%d}", f"{NOW:%Y-%m}"
# what the rows are spread over
SECONDS = 30 * 86_400

SERIES = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :rows) SELECT n FROM s) AS s"
MOMENT = {
    "postgresql": "CAST(:now AS timestamptz) - n * :apart * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', :now, '-' || (n * :apart) || ' seconds')",
}
DAY = {"postgresql": "to_char({}, 'YYYY-MM-DD')", "sqlite": "substr({}, 1, 10)"}
HALF = {"postgresql": "CAST(n % 100 AS float) / 100", "sqlite": "(n % 100) / 100.0"}
METADATA = (
    '{"model_used": "gpt-4o", "processing_time_ms": 1200, "tokens_used": 1500, "cost_usd": 0.0045, "fallback_used": 0,'
    ' "quality_score": 0.9, "selection_reason": "balanced_strategy_general_complexity", "complexity_score": 0.3}'
)
# one in a thousand is not over, of all four states; those that are over have been so from half an hour after they came
JOBS = """
INSERT INTO jobs (id, kind, state, queue, user_id, payload, model_metadata, total_cost_nano, created_at, finished_at,
    due_at, runner, lease_until, needed_nano, runs, lost_runs, forgiven)
SELECT 'job-0000-0000-0000-000000000000-' || n, 'parse',
    CASE WHEN n % 1000 > 0 THEN 'succeeded' WHEN n % 4000 = 0 THEN 'queued' WHEN n % 4000 = 1000 THEN 'running'
        WHEN n % 4000 = 2000 THEN 'waiting' ELSE 'deferred' END,
    'parse', 'user-' || n % {users}, '{{}}', '{metadata}', n % 9000000, {moment},
    CASE WHEN n % 1000 > 0 THEN {moment} END, CASE WHEN n % 1000 = 0 THEN {moment} END,
    CASE WHEN n % 4000 = 1000 THEN 'host:1:' || n END, CASE WHEN n % 4000 = 1000 THEN {moment} END, 5, 1, 0, 0
FROM {series}
"""
ATTEMPTS = """
INSERT INTO model_performance_metrics (id, job_id, number, part, state, model_name, provider, task_type, user_id, api,
    strategy, reason, budget_day, budget_month, reserved_nano, cost_nano, cost_basis, success, tokens_used,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, queue_time_ms, overhead_ms, processing_time_ms,
    quality_score, created_at, settled_at)
SELECT 'attempt000000000000000000000-' || n, 'job-0000-0000-0000-000000000000-' || n, 1, 0,
    CASE WHEN n % 1000 = 0 THEN 'calling' WHEN n % 500 = 1 THEN 'unknown' ELSE 'succeeded' END,
    CASE n % 3 WHEN 0 THEN 'gpt-4o' WHEN 1 THEN 'gpt-4o-mini' ELSE 'claude-sonnet-4-20250514' END, 'openai', 'parse',
    'user-' || n % {users}, 'keywords', 'balanced', 'balanced_strategy_general_complexity', {day}, substr({day}, 1, 7),
    20000000, n % 9000000,
    CASE WHEN n % 1000 = 0 THEN NULL WHEN n % 500 = 1 THEN 'reservation' ELSE 'usage' END,
    CASE WHEN n % 1000 = 0 THEN NULL ELSE n % 500 <> 1 END, 1500, 1000, 500, 0, 0, 5, 4, 1000 + n % 700, {half},
    {moment}, CASE WHEN n % 1000 > 0 THEN {moment} END
FROM {series}
"""


def job_id(number: int) -> str:
    """The id of a job of `fill`."""
    return f"job-0000-0000-0000-000000000000-{number}"


def fill(connection: Connection, rows: int, users: int = 5000) -> None:
    """So many jobs of the last thirty days, of so many users, with an attempt each, the first ones youngest."""
    dialect = connection.dialect.name
    moment = MOMENT[dialect]
    words = {"series": SERIES, "moment": moment, "day": DAY[dialect].format(moment), "half": HALF[dialect]}
    values = {
        "rows": rows,
        "apart": SECONDS / rows,
        "now": NOW if dialect == "postgresql" else f"{NOW:%Y-%m-%d %H:%M:%S}",
    }
    for statement in (JOBS, ATTEMPTS):
        connection.execute(text(statement.format(metadata=METADATA, users=users, **words)), values)


PARKED = Parked(job_id(3000), None, None, None, NOW - timedelta(days=2))
HOUR_AGO = NOW - timedelta(hours=1)
PERIODS = Periods(TODAY, MONTH, 0, 0, 0)
TOKENS = ("tokens_used", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
CLOSED = {"state": "failed", "cost_nano": 0, **dict.fromkeys(TOKENS, 0)}

# what runs, by its name; each may run alone
PER_JOB: dict[str, Callable[[Session], Any]] = {
    "claim": lambda s: jobs.claim(s, job_id(4000), "r"),
    "lease": lambda s: jobs.still_mine(s, job_id(1000), "host:1:1000"),
    "hand back": lambda s: jobs.hand_back(s, job_id(1000), "host:1:1000", due_in_s=1),
    "attempts of a job": lambda s: jobs.attempts_of(s, job_id(1)),
    "cost of a job": lambda s: jobs.cost_of(s, job_id(1)),
    "close an attempt": lambda s: attempts.close(s, "attempt000000000000000000000-1000", CLOSED),
    "close it late": lambda s: attempts.close_late(s, "attempt000000000000000000000-1000", CLOSED),
    "abandoned attempts": lambda s: jobs.close_abandoned(s, job_id(1000)),
    "succeed": lambda s: jobs.succeed(
        s, job_id(1000), {"result": {}, "model_metadata": {}, "model_selection_strategy": "balanced"}
    ),
    "cancel": lambda s: jobs.cancel(s, job_id(4000)),
    "idempotency key": lambda s: jobs.by_idempotency_key(s, "7", "k"),
}
EVERY_FEW_SECONDS: dict[str, Callable[[Session], Any]] = {
    "record of the models": lambda s: statistics.by_model(s, HOUR_AGO, 30),
    "orphans": lambda s: jobs.orphaned(s, NOW),
    "overdue": lambda s: jobs.overdue(s, NOW),
    "parked": lambda s: jobs.parked(s, None, (), 500),
    "parked, next page": lambda s: jobs.parked(s, PARKED, ("user-1",), 500),
    "limits": lambda s: changes.in_force(s, "limit"),
    "strategy": lambda s: changes.version(s, "strategy"),
    "live jobs": standing.live_jobs,
    "open alerts": standing.open_alerts,
    "due deliveries": alerts.due_channels,
    "alerts to hand out": lambda s: alerts.hand_out(s, ("log",)),
    "users charged": lambda s: alerts.users_charged(s, NOW - timedelta(minutes=1)),
    "objectives of models": lambda s: objectives.of_models(s, NOW - timedelta(minutes=15)),
    "objectives of strategies": lambda s: objectives.of_strategies(s, NOW - timedelta(minutes=15)),
    "days to roll up": lambda s: rollup.days_since(s, HOUR_AGO),
    "jobs to prune": lambda s: s.execute(retention.oldest(NOW - timedelta(days=1), BATCH)).all(),
}
PER_PAGE: dict[str, Callable[[Session], Any]] = {
    "latest jobs": lambda s: jobs.find(s, limit=50),
    "next page of jobs": lambda s: jobs.find(s, after=(HOUR_AGO, "j")),
    "jobs of a user": lambda s: jobs.find(s, user_id="user-7", limit=50),
    "job by its id": lambda s: jobs.by_prefix(s, job_id(77)),
    "attempt by its id": lambda s: attempts.by_prefix(s, "attempt000000000000000000000-77"),
    "unknown costs": lambda s: attempts.unknown(s, 50),
    "jobs that are open, by day": reports.open_jobs,
    "calls under way of a day": lambda s: reports.listed(s, TODAY, CALLING, 20),
    "names of a day": lambda s: reports.names(s, TODAY, Attempt.user_id),
    "days of reports": lambda s: reports.days_with_attempts(s, MONTH, TODAY),
    "touched days": lambda s: reports.touched(s, HOUR_AGO),
    "performance of an hour": lambda s: statistics.performance(s, HOUR_AGO, Attempt.model_name),
}
# these read what they add up, once a day, or when Redis was lost
LARGE: dict[str, Callable[[Session], Any]] = {
    "record of the models of three days": lambda s: statistics.by_model(s, NOW - timedelta(days=3), 30),
    "rebuild": lambda s: figures(s, PERIODS),
    "report of a day": lambda s: reports.groups(s, TODAY, Attempt.model_name),
    "unknown and overrun of a month": lambda s: attempts.oddities(s, MONTH),
    "strategies of 30 days": lambda s: statistics.by_strategy(s, NOW - timedelta(days=30)),
    "performance of 30 days": lambda s: statistics.performance(s, NOW - timedelta(days=30), Attempt.model_name),
    "job by its beginning": lambda s: jobs.by_prefix(s, job_id(77)[:-1] + "x"),
    "costs of all days": lambda s: rollup.costs(s, "2000-01-01", "model"),
}


@contextmanager
def noted(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is executed meanwhile, with its parameters."""
    found: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH", "INSERT")):
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plan(connection: Connection, statement: str, parameters: Any) -> str:
    """How the database would go about it, a step a line."""
    words = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    rows = connection.exec_driver_sql(f"{words} {statement}", parameters)
    return "\n".join(str(row[-1]) for row in rows)
