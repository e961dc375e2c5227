"""Queries on jobs: accept, claim, hand back, finish, find. Each takes the session of its caller."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, Job, JobState, utc_now

LEASE_S = 15
# How long a published job may stay unclaimed while its queue is empty before it counts as lost.
CLAIM_WITHIN_S = 20

OPEN_STATES = (JobState.QUEUED, JobState.WAITING, JobState.RUNNING)


def _count(session: Session, statement: Any) -> int:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def claim(session: Session, job_id: str, runner: str) -> Job | None:
    """Make `runner` the one that runs the job; None if the job is final or another runner's lease is alive."""
    now = utc_now()
    free = or_(Job.runner.is_(None), Job.lease_until < now)
    claimed = _count(
        session,
        update(Job)
        .where(Job.id == job_id, Job.state.in_(OPEN_STATES), free)
        .values(
            state=JobState.RUNNING,
            runner=runner,
            lease_until=now + timedelta(seconds=LEASE_S),
            started_at=func.coalesce(Job.started_at, now),
        ),
    )
    return session.get(Job, job_id) if claimed else None


def still_mine(session: Session, job_id: str, runner: str) -> bool:
    """Whether `runner` runs the job still, with its lease made new; locks the job's row."""
    lease = utc_now() + timedelta(seconds=LEASE_S)
    return bool(
        _count(
            session,
            update(Job)
            .where(Job.id == job_id, Job.runner == runner, Job.state == JobState.RUNNING)
            .values(lease_until=lease),
        )
    )


def renew_leases(session: Session, runner: str) -> int:
    """Keep all jobs of a living runner; returns how many there are."""
    lease = utc_now() + timedelta(seconds=LEASE_S)
    mine = (Job.runner == runner) & (Job.state == JobState.RUNNING)
    return _count(session, update(Job).where(mine).values(lease_until=lease))


def hand_back(session: Session, job_id: str, runner: str, *, due_in_s: float) -> None:
    """Let another run take the job, which should happen within `due_in_s`."""
    due = utc_now() + timedelta(seconds=due_in_s + CLAIM_WITHIN_S)
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.runner == runner)
        .values(state=JobState.WAITING, runner=None, lease_until=None, due_at=due)
    )


def succeed(
    session: Session, job_id: str, result: Any, metadata: dict[str, Any], cost_nano: int, strategy: str
) -> None:
    """The job is done; its cost is that of all its attempts, in nano-USD."""
    _finish(
        session, job_id, JobState.SUCCEEDED,
        result=result, model_metadata=metadata, model_selection_strategy=strategy, total_cost_nano=cost_nano,
        error_code=None, error=None,
    )  # fmt: skip


def fail(session: Session, job_id: str, code: str, sentence: str) -> None:
    """The job has failed for good, for a reason that is fit to be shown."""
    cost = cost_of(session, job_id)
    _finish(session, job_id, JobState.FAILED, error_code=code, error=sentence, total_cost_nano=cost)


def cancel(session: Session, job_id: str) -> bool:
    """Cancel a job that no runner has taken; False if there is no such job or it is taken or final."""
    waiting = Job.state.in_((JobState.QUEUED, JobState.WAITING))
    return bool(
        _count(
            session,
            update(Job)
            .where(Job.id == job_id, waiting)
            .values(state=JobState.CANCELLED, finished_at=utc_now(), error="cancelled before it ran"),
        )
    )


def _finish(session: Session, job_id: str, state: JobState, **values: Any) -> None:
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(OPEN_STATES))
        .values(state=state, finished_at=utc_now(), runner=None, lease_until=None, due_at=None, **values)
    )


def cost_of(session: Session, job_id: str) -> int:
    """What all attempts of a job have cost so far, in nano-USD."""
    return session.scalar(select(func.coalesce(func.sum(Attempt.cost_nano), 0)).where(Attempt.job_id == job_id)) or 0


def attempts_of(session: Session, job_id: str) -> Sequence[Attempt]:
    """The attempts of a job, first to last."""
    return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()


def orphaned(session: Session, now: datetime, limit: int = 500) -> Sequence[Job]:
    """Jobs whose runner has given no sign of life within its lease."""
    return session.scalars(select(Job).where(Job.state == JobState.RUNNING, Job.lease_until < now).limit(limit)).all()


def overdue(session: Session, now: datetime, limit: int = 500) -> Sequence[Job]:
    """Jobs that nobody has claimed in time, oldest first."""
    waiting = Job.state.in_((JobState.QUEUED, JobState.WAITING))
    return session.scalars(select(Job).where(waiting, Job.due_at < now).order_by(Job.due_at).limit(limit)).all()


def find(
    session: Session,
    *,
    state: str | None = None,
    kind: str | None = None,
    user_id: str | None = None,
    api: str | None = None,
    limit: int = 50,
) -> Sequence[Job]:
    """The latest jobs that match, newest first."""
    wanted = {Job.state: state, Job.kind: kind, Job.user_id: user_id, Job.api: api}
    query = select(Job).where(*(column == value for column, value in wanted.items() if value is not None))
    return session.scalars(query.order_by(Job.created_at.desc(), Job.id).limit(limit)).all()


def close_abandoned(session: Session, job_id: str) -> Sequence[Attempt]:
    """Attempts that a dead runner left in `calling`: charged at their reservations as `unknown`."""
    left = session.scalars(select(Attempt).where(Attempt.job_id == job_id, Attempt.state == AttemptState.CALLING)).all()
    for attempt in left:
        attempt.state = AttemptState.UNKNOWN
        attempt.success = False
        attempt.cost_nano = attempt.reserved_nano
        attempt.error_class, attempt.error_code = "same", "runner_lost"
        attempt.error = "the worker was lost during the call; charged at the reservation"
        attempt.settled_at = utc_now()
    return left


def by_prefix(session: Session, start: str) -> Sequence[Job]:
    """The job of that id, or at most two of those whose ids begin so."""
    exact = session.get(Job, start)
    if exact is not None:
        return [exact]
    return session.scalars(select(Job).where(Job.id.startswith(start, autoescape=True)).limit(2)).all()
