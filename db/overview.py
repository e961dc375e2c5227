"""What the page for people shows of SQL. Every query looks at few rows, however many jobs there have been: days that
are over come from the rollup, today's calls by the day's index, the rest are the latest few."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, case, func, select
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, DailyCost, Job

# a job has one successful attempt with part 0 at most
_FIRST_ANSWER = Attempt.success.is_(True) & (Attempt.part == 0)


def rolled_up(first_day: str, before: str) -> Any:
    """By day, model and strategy what the days from the first one on, and before the other, came to: `day`, `model`,
    `strategy`, `cost` in nano-USD and `generations`."""
    group = (DailyCost.date, DailyCost.model_name, DailyCost.strategy)
    sums = (
        func.sum(DailyCost.total_cost_nano).label("cost"),
        func.sum(DailyCost.generation_count).label("generations"),
    )
    names = (DailyCost.date.label("day"), DailyCost.model_name.label("model"), DailyCost.strategy)
    return select(*names, *sums).where(DailyCost.date >= first_day, DailyCost.date < before).group_by(*group)


def of_day(day: str) -> Any:
    """The same of the attempts of one day."""
    sums = (
        func.sum(Attempt.cost_nano).label("cost"),
        func.sum(case((_FIRST_ANSWER, 1), else_=0)).label("generations"),
    )
    mine = (Attempt.budget_day == day, Attempt.state != AttemptState.CALLING)
    group = (Attempt.budget_day, Attempt.model_name, Attempt.strategy)
    names = (Attempt.budget_day.label("day"), Attempt.model_name.label("model"), Attempt.strategy)
    return select(*names, *sums).where(*mine).group_by(*group)


def latest_calls(most: int) -> Any:
    """The latest calls: `model`, `strategy`, `state`, `success`, `error_code`, `ms` and `quality` (0-1)."""
    columns = (
        Attempt.model_name.label("model"), Attempt.strategy, Attempt.state, Attempt.success, Attempt.error_code,
        Attempt.processing_time_ms.label("ms"), Attempt.quality_score.label("quality"),
    )  # fmt: skip
    return select(*columns).order_by(Attempt.created_at.desc()).limit(most)


def latest_jobs(most: int) -> Any:
    """The latest jobs, newest first, without their payloads and results."""
    columns = (
        Job.id, Job.kind, Job.state, Job.user_id, Job.api, Job.created_at, Job.started_at, Job.finished_at,
        Job.error_code, Job.error,
    )  # fmt: skip
    return select(*columns).order_by(Job.created_at.desc()).limit(most)


def calls_of(ids: Collection[str]) -> Any:
    """Of these jobs, call by call: `job_id`, `model` and `cost` in nano-USD."""
    columns = (Attempt.job_id, Attempt.model_name.label("model"), Attempt.cost_nano.label("cost"))
    return select(*columns).where(Attempt.job_id.in_(ids)).order_by(Attempt.job_id, Attempt.number)


def rows(session: Session, statement: Any) -> Sequence[Row[Any]]:
    """What one of these finds."""
    return session.execute(statement).all()
