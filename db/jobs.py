"""Queries on jobs: accept, claim, hand back, finish, find. Each takes the session of its caller."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Table, bindparam, case, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from db.attempts import RUNNER_LOST
from db.models import Attempt, AttemptState, CostBasis, Job, JobState, utc_now

LEASE_S = 15
# How long a published job may stay unclaimed while its queue is empty before it counts as lost.
CLAIM_WITHIN_S = 20

WAITING_STATES = (JobState.QUEUED, JobState.WAITING, JobState.DEFERRED)
# what can be started again
OVER = (JobState.FAILED, JobState.CANCELLED)
OPEN_STATES = (*WAITING_STATES, JobState.RUNNING)


# The statements on the way of every job. They are built once: building one costs several times what running it
# does. `.c` are plain columns, since with those of the ORM every statement would pay for the ORM.
_TABLE = cast("Table", Job.__table__)
_JOB = _TABLE.c
_THIS_JOB = _JOB.id == bindparam("job_id")
_MINE = (_JOB.runner == bindparam("my_name")) & (_JOB.state == JobState.RUNNING)


def _is_one_of(*states: JobState) -> ColumnElement[bool]:
    """`in_` would be put together anew at every call."""
    return or_(*(_JOB.state == state for state in states))


_IS_OPEN = _is_one_of(*OPEN_STATES)
# a deferred job is claimed once it is released: what hangs on it is in its row, and not in a stray message
_CAN_BE_CLAIMED = _is_one_of(JobState.QUEUED, JobState.WAITING, JobState.RUNNING)
_IS_WAITING = _is_one_of(*WAITING_STATES)
_ENDED: dict[str, Any] = {
    "finished_at": bindparam("now"),
    "runner": None,
    "lease_until": None,
    "due_at": None,
    "message": None,
}

_CLAIM = (
    update(_TABLE)
    .where(
        _THIS_JOB,
        _CAN_BE_CLAIMED,
        or_(_JOB.runner.is_(None), _JOB.lease_until < bindparam("now")),
    )
    .values(
        state=JobState.RUNNING,
        runner=bindparam("new_runner"),
        lease_until=bindparam("lease"),
        started_at=func.coalesce(_JOB.started_at, bindparam("now")),
        runs=_JOB.runs + 1,
        # whoever had it did not hand it back
        lost_runs=_JOB.lost_runs + case((_JOB.runner.is_(None), 0), else_=1),
        waiting_since=case(
            (_JOB.runner.is_(None), func.coalesce(_JOB.waiting_since, _JOB.created_at)), else_=_JOB.lease_until
        ),
    )
    .returning(
        _JOB.id,
        _JOB.payload,
        _JOB.user_id,
        _JOB.api,
        _JOB.started_at,
        _JOB.waiting_since,
        _JOB.runs,
        _JOB.lost_runs,
        _JOB.forgiven,
        _JOB.queue,
    )
)
_STILL_MINE = update(_TABLE).where(_THIS_JOB, _MINE).values(lease_until=bindparam("lease"))
_HAND_BACK = (
    update(_TABLE)
    .where(_THIS_JOB, _MINE)
    .values(
        state=JobState.WAITING,
        runner=None,
        lease_until=None,
        due_at=bindparam("due"),
        waiting_since=bindparam("now"),
        lost_runs=0,
    )
)
_DEFER = (
    update(_TABLE)
    .where(_THIS_JOB, _MINE)
    .values(
        state=JobState.DEFERRED,
        lost_runs=0,
        runner=None,
        lease_until=None,
        due_at=bindparam("until"),
        needed_nano=bindparam("new_needed"),
        message=func.coalesce(bindparam("new_message", type_=_JOB.message.type), _JOB.message),
        error_code=bindparam("new_code"),
        error=bindparam("new_error"),
    )
)
_SUCCEED = (
    update(_TABLE)
    .where(_THIS_JOB, _IS_OPEN)
    .values(
        state=JobState.SUCCEEDED,
        result=bindparam("new_result"),
        model_metadata=bindparam("new_model_metadata"),
        model_selection_strategy=bindparam("new_model_selection_strategy"),
        total_cost_nano=bindparam("new_total_cost_nano"),
        error_code=None,
        error=None,
        **_ENDED,
    )
)
_FAIL = (
    update(_TABLE)
    .where(_THIS_JOB, _MINE)
    .values(
        state=JobState.FAILED,
        error_code=bindparam("new_code"),
        error=bindparam("new_error"),
        total_cost_nano=bindparam("new_cost"),
        **_ENDED,
    )
)
_CANCEL = (
    update(_TABLE)
    .where(_THIS_JOB, _IS_WAITING)
    .values(state=JobState.CANCELLED, error="cancelled before it ran", total_cost_nano=bindparam("new_cost"), **_ENDED)
)
_ATTEMPT = cast("Table", Attempt.__table__).c
_COST = select(func.sum(_ATTEMPT.cost_nano)).where(_ATTEMPT.job_id == bindparam("job_id"))


def _count(session: Session, statement: Any, values: dict[str, Any]) -> int:
    return cast("CursorResult[Any]", session.execute(statement, values)).rowcount


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours to run since `claimed_at` (of `time.monotonic()`), after it had waited `waited_ms` for that:
    since it was accepted, handed back or released, or since its last worker's lease ended. `runs` counts the claims so
    far, this one included, `lost_runs` those whose runner gave no more sign of life; attempts up to number `forgiven`
    count no more."""

    id: str
    payload: dict[str, Any]
    user_id: str | None
    api: str | None
    started_at: datetime
    runs: int
    lost_runs: int
    forgiven: int
    queue: str
    waited_ms: int
    claimed_at: float


def claim(session: Session, job_id: str, runner: str) -> Claim | None:
    """Make `runner` the one that runs the job; None if the job is final or another runner's lease is alive."""
    now, claimed_at = utc_now(), time.monotonic()
    values = {"job_id": job_id, "new_runner": runner, "now": now, "lease": now + timedelta(seconds=LEASE_S)}
    claimed = session.execute(_CLAIM, values).one_or_none()
    if claimed is None:
        return None
    row = claimed._asdict()
    # clocks of two machines may differ
    waited = max(timedelta(0), now - row.pop("waiting_since"))
    return Claim(**row, waited_ms=round(waited / timedelta(milliseconds=1)), claimed_at=claimed_at)


def still_mine(session: Session, job_id: str, runner: str) -> bool:
    """Whether `runner` runs the job still, with its lease made new; locks the job's row."""
    lease = utc_now() + timedelta(seconds=LEASE_S)
    return bool(_count(session, _STILL_MINE, {"job_id": job_id, "my_name": runner, "lease": lease}))


def renew_leases(session: Session, runners: dict[str, str]) -> None:
    """Keep the jobs (runner -> job id) that living runners have."""
    lease = utc_now() + timedelta(seconds=LEASE_S)
    for runner, job_id in runners.items():
        session.execute(_STILL_MINE, {"job_id": job_id, "my_name": runner, "lease": lease})


def nobody_runs(session: Session, job_id: str) -> bool:
    """Whether the job is open and waits for a runner; locks the job's row."""
    job = session.get(Job, job_id, with_for_update=True)
    # what hangs on a deferred job is in its row: it goes on when it is released
    return job is not None and job.state in (JobState.QUEUED, JobState.WAITING)


def hand_back(session: Session, job_id: str, runner: str, *, due_in_s: float) -> None:
    """Let another run take the job, which should happen within `due_in_s`."""
    now = utc_now()
    due = now + timedelta(seconds=due_in_s + CLAIM_WITHIN_S)
    session.execute(_HAND_BACK, {"job_id": job_id, "my_name": runner, "due": due, "now": now})


def defer(session: Session, job_id: str, runner: str, values: dict[str, Any]) -> None:
    """Park the job until a budget has room. `values` holds `until` (when that is certain), `needed` (nano-USD, what
    its next call may cost), `message` (what goes on with its chain), `code` and `error`."""
    session.execute(_DEFER, {"job_id": job_id, "my_name": runner, "until": values["until"]} | {
        f"new_{name}": values[name] for name in ("needed", "message", "code", "error")
    })  # fmt: skip


def succeed(session: Session, job_id: str, values: dict[str, Any]) -> None:
    """The job is done. `values` holds `result`, `model_metadata` and `model_selection_strategy`; its cost is that of
    all its attempts as they stand by now, and is put into the metadata. A job that is over, which is one that was
    cancelled when its worker was taken for dead, gets its cost only."""
    cost = cost_of(session, job_id)
    metadata = {**values["model_metadata"], "cost_usd": _usd(cost)}
    written = {**values, "total_cost_nano": cost, "model_metadata": metadata}
    parameters = {f"new_{name}": value for name, value in written.items()}
    if _count(session, _SUCCEED, {"job_id": job_id, "now": utc_now(), **parameters}):
        values["model_metadata"] |= metadata
    else:
        recount_cost(session, job_id)


def _usd(nano: int) -> float:
    return nano / 10**9


def fail(session: Session, job_id: str, runner: str, code: str, sentence: str) -> None:
    """The job has failed for good, for a reason that is fit to be shown."""
    outcome = {"new_code": code, "new_error": sentence, "new_cost": cost_of(session, job_id)}
    session.execute(_FAIL, {"job_id": job_id, "my_name": runner, "now": utc_now(), **outcome})


def cancel(session: Session, job_id: str) -> bool:
    """Cancel a job that no runner has taken; False if there is no such job or it is taken or final."""
    return bool(_count(session, _CANCEL, {"job_id": job_id, "now": utc_now(), "new_cost": cost_of(session, job_id)}))


def cost_of(session: Session, job_id: str) -> int:
    """What all attempts of a job have cost so far, in nano-USD."""
    # PostgreSQL adds up big integers as Decimal
    return int(session.scalar(_COST, {"job_id": job_id}) or 0)


def recount_cost(session: Session, job_id: str) -> None:
    """The cost of an attempt was corrected: bring the cost of its job up to date."""
    session.flush()
    job = session.get_one(Job, job_id, with_for_update=True)
    job.total_cost_nano = cost_of(session, job_id)
    if job.model_metadata:
        job.model_metadata = {**job.model_metadata, "cost_usd": _usd(job.total_cost_nano)}


def attempts_of(session: Session, job_id: str) -> Sequence[Attempt]:
    """The attempts of a job, first to last."""
    return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()


def orphaned(session: Session, now: datetime, limit: int = 500) -> Sequence[Job]:
    """Jobs whose runner has given no sign of life within its lease."""
    orphans = select(Job).where(Job.state == JobState.RUNNING, Job.lease_until < now)
    return session.scalars(orphans.limit(limit).with_for_update(skip_locked=True)).all()


def overdue(session: Session, now: datetime, limit: int = 500) -> Sequence[Job]:
    """Jobs that nobody has claimed in time, oldest first."""
    waiting = Job.state.in_((JobState.QUEUED, JobState.WAITING))
    late = select(Job).where(waiting, Job.due_at < now).order_by(Job.due_at)
    return session.scalars(late.limit(limit).with_for_update(skip_locked=True)).all()


@dataclass(frozen=True, slots=True)
class Parked:
    """A deferred job: since when, what its next call may cost (nano-USD; None: it waits for a moment), until when."""

    id: str
    user_id: str | None
    needed_nano: int | None
    due_at: datetime | None
    created_at: datetime


def parked(session: Session, after: Parked | None, without_users: Collection[str], limit: int) -> list[Parked]:
    """Deferred jobs in the order in which they were accepted, those of some users left out, from `after` on."""
    query = select(Job.id, Job.user_id, Job.needed_nano, Job.due_at, Job.created_at).where(
        Job.state == JobState.DEFERRED
    )
    if after is not None:
        query = query.where(tuple_(Job.created_at, Job.id) > (after.created_at, after.id))
    if without_users:
        query = query.where(or_(Job.user_id.is_(None), Job.user_id.not_in(without_users)))
    return [Parked(*row) for row in session.execute(query.order_by(Job.created_at, Job.id).limit(limit))]


def release(session: Session, ids: Collection[str]) -> Sequence[Job]:
    """Those of these jobs that are deferred still, to be taken out of that state."""
    query = select(Job).where(Job.id.in_(ids), Job.state == JobState.DEFERRED).order_by(Job.created_at, Job.id)
    return session.scalars(query.with_for_update(skip_locked=True)).all()


def find(
    session: Session,
    *,
    state: str | None = None,
    kind: str | None = None,
    user_id: str | None = None,
    api: str | None = None,
    limit: int = 50,
    after: tuple[datetime, str] | None = None,
) -> Sequence[Job]:
    """The latest jobs that match, newest first; those that come `after` one of this time of creation and id."""
    wanted = {Job.state: state, Job.kind: kind, Job.user_id: user_id, Job.api: api}
    query = select(Job).where(*(column == value for column, value in wanted.items() if value is not None))
    if after is not None:
        created_at, job_id = after
        query = query.where(or_(Job.created_at < created_at, (Job.created_at == created_at) & (Job.id > job_id)))
    return session.scalars(query.order_by(Job.created_at.desc(), Job.id).limit(limit)).all()


def over(session: Session, ids: Collection[str]) -> Sequence[str]:
    """Those of these jobs that have ended."""
    final = [state for state in JobState if state.final]
    return session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.in_(final))).all()


def close_abandoned(session: Session, job_id: str) -> Sequence[Attempt]:
    """Attempts that a dead runner left in `calling`: charged at their reservations as `unknown`."""
    calling = select(Attempt).where(Attempt.job_id == job_id, Attempt.state == AttemptState.CALLING)
    left = session.scalars(calling.with_for_update()).all()
    for attempt in left:
        attempt.state = AttemptState.UNKNOWN
        attempt.success = False
        attempt.cost_nano, attempt.cost_basis = attempt.reserved_nano, CostBasis.RESERVATION
        attempt.error_class, attempt.error_code = "same", RUNNER_LOST
        attempt.error = "the worker was lost during the call; charged at the reservation"
        attempt.settled_at = utc_now()
    return left


def by_idempotency_key(session: Session, user_id: str | None, key: str) -> Job | None:
    """The job that was submitted under this key for this user; None: for no user."""
    whose = Job.user_id.is_(None) if user_id is None else Job.user_id == user_id
    return session.scalars(select(Job).where(whose, Job.idempotency_key == key)).one_or_none()


def start_again(session: Session, job_id: str) -> bool:
    """Let a job that has failed or was cancelled run once more, with its history; False if it is in another state, or
    its input is not kept any more."""
    job = session.get(Job, job_id, with_for_update=True)
    if job is None or job.state not in OVER or job.pruned_at is not None:
        return False
    job.state, job.lost_runs = JobState.QUEUED, 0
    job.error = job.error_code = job.started_at = job.finished_at = job.needed_nano = None
    job.waiting_since = utc_now()
    job.due_at = job.waiting_since + timedelta(seconds=CLAIM_WITHIN_S)
    job.forgiven = session.scalar(select(func.max(Attempt.number)).where(Attempt.job_id == job_id)) or 0
    return True


def by_prefix(session: Session, start: str) -> Sequence[Job]:
    """The job of that id, or at most two of those whose ids begin so."""
    exact = session.get(Job, start)
    if exact is not None:
        return [exact]
    return session.scalars(select(Job).where(Job.id.startswith(start, autoescape=True)).limit(2)).all()
