"""What attempts and jobs have measured, as figures: by model for choosing, by strategy for comparing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, func, select
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, Job, JobState
from db.percentiles import rank, within

# what says nothing of the model that was called
NOT_THE_MODELS = ("late_record", "runner_lost", "shutdown", "not_sent")
# Every process asks for the record of the models every few seconds: however many calls an hour has, it reads no more.
MOST_CALLS = 5_000


def by_model(session: Session, since: datetime, latest: int) -> Sequence[Row[Any]]:
    """Of the `latest` calls since then, per model and kind of job, among the last `MOST_CALLS`: `model_name`,
    `task_type`, `calls`, `cost` in nano-USD, and of those that succeeded `succeeded`, `tokens`, `p95_ms` and
    `quality`."""
    counts = Attempt.error_code.is_(None) | Attempt.error_code.not_in(NOT_THE_MODELS)
    calls = (
        select(
            Attempt.id,
            Attempt.model_name,
            Attempt.task_type,
            Attempt.created_at,
            Attempt.cost_nano,
            Attempt.success,
            Attempt.tokens_used,
            Attempt.processing_time_ms,
            Attempt.quality_score,
        )
        .where(Attempt.created_at >= since, Attempt.state != AttemptState.CALLING, counts)
        .order_by(Attempt.created_at.desc())
        .limit(MOST_CALLS)
        .subquery()
    )
    call = (calls.c.model_name, calls.c.task_type)
    place = func.row_number().over(partition_by=call, order_by=(calls.c.created_at.desc(), calls.c.id))
    window = select(calls, place.label("place")).subquery()
    recent = select(window).where(window.c.place <= latest).subquery()
    ranked = select(recent, _rank(recent, (recent.c.model_name, recent.c.task_type))).subquery()
    group = (ranked.c.model_name, ranked.c.task_type)
    figures = (
        func.count().label("calls"),
        func.sum(ranked.c.cost_nano).label("cost"),
        _sum_of(ranked.c.success, 1).label("succeeded"),
        _sum_of(ranked.c.success, ranked.c.tokens_used).label("tokens"),
        _p95(ranked).label("p95_ms"),
        func.avg(case((ranked.c.success, ranked.c.quality_score))).label("quality"),
    )
    return session.execute(select(*group, *figures).group_by(*group)).all()


def by_strategy(session: Session, since: datetime) -> Sequence[Row[Any]]:
    """Of the jobs since then that have ended after a call or more, per strategy (that of the job's last attempt) and
    kind: `strategy`, `kind`, `jobs`, `succeeded`, `cost` in nano-USD, `fallbacks` (jobs whose last attempt was one),
    `quality`, and `p95_ms` of the calls that brought the results."""
    last = func.row_number().over(partition_by=Attempt.job_id, order_by=Attempt.number.desc())
    attempts = (
        select(
            Attempt.strategy,
            Job.kind,
            (Job.state == JobState.SUCCEEDED).label("done"),
            Job.total_cost_nano,
            Attempt.reason,
            Attempt.success,
            Attempt.processing_time_ms,
            Attempt.quality_score,
            last.label("place"),
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(Job.created_at >= since, Job.state.in_([state for state in JobState if state.final]))
        .subquery()
    )
    jobs = select(attempts).where(attempts.c.place == 1).subquery()
    ranked = select(jobs, _rank(jobs, (jobs.c.strategy, jobs.c.kind))).subquery()
    group = (ranked.c.strategy, ranked.c.kind)
    figures = (
        func.count().label("jobs"),
        _sum_of(ranked.c.done, 1).label("succeeded"),
        func.sum(ranked.c.total_cost_nano).label("cost"),
        _sum_of(ranked.c.reason.like(r"fallback\_%", escape="\\"), 1).label("fallbacks"),
        func.avg(case((ranked.c.done, ranked.c.quality_score))).label("quality"),
        _p95(ranked).label("p95_ms"),
    )
    return session.execute(select(*group, *figures).group_by(*group).order_by(*group)).all()


def performance(session: Session, since: datetime, group: Any) -> Sequence[Row[Any]]:
    """Of the calls since then that have ended, per `group` (a column of `Attempt`): `name`, `jobs`, `calls`,
    `succeeded`, `cost` in nano-USD, and of those that succeeded the mean `milliseconds` and `quality`. A call that
    failed by no fault of the model costs, and counts as no call."""
    counts = Attempt.error_code.is_(None) | Attempt.error_code.not_in(NOT_THE_MODELS)
    figures = (
        func.count(func.distinct(Attempt.job_id)).label("jobs"),
        _sum_of(counts, 1).label("calls"),
        _sum_of(Attempt.success.is_(True), 1).label("succeeded"),
        func.sum(Attempt.cost_nano).label("cost"),
        func.avg(case((Attempt.success.is_(True), Attempt.processing_time_ms))).label("milliseconds"),
        func.avg(case((Attempt.success.is_(True), Attempt.quality_score))).label("quality"),
    )
    ended = (Attempt.created_at >= since, Attempt.state != AttemptState.CALLING)
    return session.execute(select(group.label("name"), *figures).where(*ended).group_by(group).order_by(group)).all()


def _rank(rows: Any, group: tuple[Any, ...]) -> Any:
    return rank(rows.c.processing_time_ms, (*group, rows.c.success))


def _p95(ranked: Any) -> Any:
    return within(95, ranked, ranked.c.processing_time_ms, ranked.c.success)


def _sum_of(condition: Any, value: Any) -> Any:
    return func.sum(case((condition, value), else_=0))
