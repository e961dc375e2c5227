"""What the daily cost report is made of: the attempts of one budget day, added up and listed; and the reports that are
kept. All amounts are nano-USD."""

from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, case, func, literal, select, true
from sqlalchemy.orm import Session

from db import rounds
from db.models import Attempt, AttemptState, Change, CostBasis, DailyCost, Job, JobState, Report
from db.percentiles import rank, within
from db.rollup import days_since
from db.statistics import NOT_THE_MODELS

_ENDED = Job.state.in_([state for state in JobState if state.final])
_OPEN = Job.state.in_([state for state in JobState if not state.final])
_OWN_FAILURE = Attempt.success.is_(False) & (
    Attempt.error_code.is_(None) | Attempt.error_code.not_in(NOT_THE_MODELS)
)  # fmt: skip
CALLING = Attempt.state == AttemptState.CALLING
UNKNOWN = Attempt.cost_basis == CostBasis.RESERVATION
OVERRUN = (Attempt.cost_basis == CostBasis.USAGE) & (Attempt.cost_nano > Attempt.reserved_nano)
# whose tokens somebody counted
_COUNTED = Attempt.cost_basis.in_((CostBasis.USAGE, CostBasis.BY_HAND)) & (Attempt.tokens_used > 0)


def _sum(value: Any, where: ColumnElement[bool] | None = None) -> Any:
    return func.coalesce(func.sum(value if where is None else case((where, value), else_=0)), 0)


def _any(where: ColumnElement[bool]) -> Any:
    return func.max(case((where, 1), else_=0))


# of the calls of one job
_OF_CALLS = {
    "cost_nano": _sum(Attempt.cost_nano),
    "reserved_nano": _sum(Attempt.reserved_nano, ~CALLING),
    "open_nano": _sum(Attempt.reserved_nano, CALLING),
    "calls": func.count(),
    "calls_open": _sum(1, CALLING),
    "calls_succeeded": _sum(1, Attempt.success.is_(True)),
    "calls_failed": _sum(1, _OWN_FAILURE),
    "input_tokens": _sum(Attempt.input_tokens),
    "output_tokens": _sum(Attempt.output_tokens),
    "jobs": literal(1),
    "jobs_ended": _any(_ENDED),
    "jobs_succeeded": _any(Job.state == JobState.SUCCEEDED),
    "fallbacks": _any(Attempt.reason.startswith("fallback_", autoescape=True)),
}
_SCORE = case((Attempt.success.is_(True), Attempt.quality_score))


def groups(session: Session, day: str, by: Any = None, most: int | None = None) -> list[dict[str, Any]]:
    """The attempts of a day by a column of `Attempt`, dearest first, at most so many; all in one if there is no column.
    Each is `name` (empty for what was not named), the sums above, and of successful calls `quality` (0-1), `p50_ms` and
    `p95_ms`: the shortest times that so many of 100 stayed within."""
    name = _name(by)
    # job by job first: counting distinct jobs of so many takes longer
    scores = func.sum(_SCORE).label("scores"), func.count(_SCORE).label("scored")
    sums = (value.label(key) for key, value in _OF_CALLS.items())
    of_jobs = select(name.label("name"), *sums, *scores).join(Job, Job.id == Attempt.job_id)
    jobs = of_jobs.where(Attempt.budget_day == day).group_by(*([] if by is None else [name]), Attempt.job_id).subquery()
    added = {key: _sum(jobs.c[key]) for key in _OF_CALLS}
    quality = func.sum(jobs.c.scores) / func.nullif(func.sum(jobs.c.scored), 0)
    query = select(*(value.label(key) for key, value in added.items()), quality.label("quality"))
    if by is None:
        query = query.add_columns(literal("").label("name"))
    else:
        query = query.add_columns(jobs.c.name).group_by(jobs.c.name)
        query = query.order_by(added["cost_nano"].desc(), jobs.c.name).limit(most)
    found = session.execute(query).mappings().all()
    times = _times(session, day, by, [row["name"] for row in found])
    return [
        {
            "name": row["name"],
            # PostgreSQL adds up big integers as Decimal
            **{key: int(row[key]) for key in _OF_CALLS},
            # an average of floats depends on their order
            "quality": None if row["quality"] is None else round(float(row["quality"]), 4),
            **times.get(row["name"], {"p50_ms": None, "p95_ms": None}),
        }
        for row in found
    ]


def _name(by: Any) -> Any:
    return literal("") if by is None else func.coalesce(by, "")


def _times(session: Session, day: str, by: Any, names: Collection[str]) -> dict[str, dict[str, int]]:
    name = _name(by)
    time = Attempt.processing_time_ms
    timed = select(name.label("name"), time.label("ms"), rank(time, () if by is None else (name,))).where(
        Attempt.budget_day == day, Attempt.success.is_(True), time.is_not(None)
    )
    if by is not None:
        timed = timed.where(name.in_(names))
    rows = timed.subquery()
    shares = (within(percent, rows, rows.c.ms, true()) for percent in (50, 95))
    found = session.execute(select(rows.c.name, *shares).group_by(rows.c.name))
    return {name: {"p50_ms": p50, "p95_ms": p95} for name, p50, p95 in found}


def names(session: Session, day: str, by: Any) -> int:
    """How many different values a column has on a day; what is not named is one of them."""
    return session.scalar(select(func.count(func.coalesce(by, "").distinct())).where(Attempt.budget_day == day)) or 0


def counted_tokens(session: Session, day: str) -> Sequence[Row[Any]]:
    """By kind of job, of the calls whose tokens somebody counted: `kind`, `calls`, `cost`, `input`, `output`,
    `cached`."""
    sums = {"cost": Attempt.cost_nano, "input": Attempt.input_tokens, "output": Attempt.output_tokens,
            "cached": Attempt.cached_tokens}  # fmt: skip
    columns = [func.sum(column).label(name) for name, column in sums.items()]
    query: Any = select(Attempt.task_type.label("kind"), func.count().label("calls"), *columns)
    kinds = query.where(Attempt.budget_day == day, _COUNTED).group_by(Attempt.task_type).order_by(Attempt.task_type)
    return session.execute(kinds).all()


def listed(session: Session, day: str, which: ColumnElement[bool], most: int) -> tuple[int, Sequence[Attempt]]:
    """How many attempts of a day are such (`CALLING`, `UNKNOWN`, `OVERRUN`), and the dearest of them."""
    mine = (Attempt.budget_day == day) & which
    count = session.scalar(select(func.count()).select_from(Attempt).where(mine)) or 0
    dearest = select(Attempt).where(mine).order_by(Attempt.cost_nano.desc(), Attempt.reserved_nano.desc(), Attempt.id)
    return count, session.scalars(dearest.limit(most)).all() if count else []


def corrections(session: Session, day: str, most: int) -> tuple[int, list[tuple[Change, str]]]:
    """How often the cost of an attempt of that day was put right by hand, and the latest, with the model."""
    mine = (Change.what == "cost") & (Attempt.budget_day == day)
    joined = select(Change, Attempt.model_name).join(Attempt, Attempt.id == Change.subject).where(mine)
    count = session.scalar(select(func.count()).select_from(joined.subquery())) or 0
    latest = session.execute(joined.order_by(Change.id.desc()).limit(most))
    return count, [(change, model) for change, model in latest]


def spent_by_day(session: Session, first: date, last: date) -> dict[str, int]:
    """What each day from first to last cost: by the rollup, or by the attempts of a day that it does not have, or that
    has changed since."""
    days = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    behind = days_since(session, rounds.last(session, rounds.ROLLUP) - rounds.MARGIN)
    within = DailyCost.date.in_([day for day in days if day not in behind])
    rolled = select(DailyCost.date, func.sum(DailyCost.total_cost_nano)).where(within).group_by(DailyCost.date)
    spent = {day: int(cost) for day, cost in session.execute(rolled)}
    others = Attempt.budget_day.in_([day for day in days if day not in spent])
    own = select(Attempt.budget_day, func.sum(Attempt.cost_nano)).where(others).group_by(Attempt.budget_day)
    spent |= {day: int(cost) for day, cost in session.execute(own)}
    return {day: spent.get(day, 0) for day in days}


def days_with_attempts(session: Session, first: str, last: str) -> set[str]:
    """The days from first to last on which anything was called: one step in the index for each that is found."""
    found: set[str] = set()
    later = Attempt.budget_day >= first
    while day := session.scalar(select(func.min(Attempt.budget_day)).where(later, Attempt.budget_day <= last)):
        found.add(day)
        later = Attempt.budget_day > day
    return found


def has_older(session: Session, day: str) -> bool:
    """Whether anything was called before that day."""
    return bool(session.scalar(select(select(Attempt.id).where(Attempt.budget_day < day).exists())))


def touched(session: Session, since: datetime, day: str | None = None) -> set[str]:
    """The days (or only that one, if it is among them) of which, since then, a call was settled, a cost was put right
    or a job was started again."""
    mine = [] if day is None else [Attempt.budget_day == day]

    def changed(what: str) -> Any:
        return select(Change.subject).where(Change.what == what, Change.created_at >= since)

    ways = (
        Attempt.settled_at >= since,
        Attempt.id.in_(changed("cost")),
        Attempt.job_id.in_(changed("retry")),
    )
    # Told to find different days, SQLite would walk through the index of days instead of that of moments.
    rows = (select(Attempt.budget_day).where(way, *mine).execution_options(yield_per=10_000) for way in ways)
    return {day for query in rows for day in session.scalars(query)}


def open_jobs(session: Session) -> dict[str, int]:
    """By day, how many jobs called on it and have not ended."""
    joined = (
        select(Attempt.budget_day, func.count(Attempt.job_id.distinct()))
        .join(Job, Job.id == Attempt.job_id)
        .where(_OPEN)
    )
    return dict(list(session.execute(joined.group_by(Attempt.budget_day))))


def reports(session: Session, days: Collection[str]) -> dict[str, Report]:
    """The reports of these days that are kept."""
    return {report.day: report for report in session.scalars(select(Report).where(Report.day.in_(days)))}


def written(session: Session, before: str | None, limit: int) -> list[tuple[str, datetime]]:
    """The days (before one) that have a report, the latest first, and when it was written."""
    query = select(Report.day, Report.created_at).order_by(Report.day.desc()).limit(limit)
    found = session.execute(query if before is None else query.where(Report.day < before))
    return [(day, created_at) for day, created_at in found]
