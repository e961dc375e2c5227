"""How a job is accepted: checked, given its queue, and written to SQL before any message leaves."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db.jobs import CLAIM_WITHIN_S, by_idempotency_key
from db.models import Job, JobState, utc_now
from db.session import read, write
from selection.errors import CannotSelect
from selection.registry import load_registry
from selection.strategies import MODEL_KIND
from worker.choose import choose
from worker.errors import InvalidJob
from worker.kind import JobKind

PREMIUM_QUEUE = "generate-premium"
LONGEST_ID = 64


def fields_of(kind: JobKind, args: Any, kwargs: Any) -> dict[str, Any]:
    """Positional and keyword arguments as one mapping, as calling a function would bind them."""
    args = tuple(args or ())
    fields: dict[str, Any] = dict(kwargs or {})
    if len(args) > len(kind.positional):
        raise InvalidJob(f"{kind.name}: takes at most {len(kind.positional)} positional arguments, got {len(args)}")
    for name, value in zip(kind.positional, args, strict=False):
        if name in fields:
            raise InvalidJob(f"{kind.name}: field {name} was given twice")
        fields[name] = value
    return fields


def accept(kind: JobKind, job_id: str, fields: dict[str, Any], *, due_in_s: float, again: bool = False) -> Job:
    """Check a job and write its row; `InvalidJob` says what is wrong, and then nothing was written.

    `again` lets a job stand that is there already: its message was delivered a second time. A job that was submitted
    under the same idempotency key before is returned instead, with its own id."""
    if not 1 <= len(job_id) <= LONGEST_ID or not job_id.isprintable():
        raise InvalidJob(f"{kind.name}: a task id has 1 to {LONGEST_ID} printable characters")
    payload = kind.payload(fields)
    due = utc_now() + timedelta(seconds=due_in_s)
    job = Job(
        id=job_id,
        kind=kind.name,
        state=JobState.QUEUED,
        queue=_queue_of(kind, payload, job_id),
        user_id=payload.user_id,
        api=payload.api,
        payload=payload.model_dump(mode="json", exclude_none=True),
        idempotency_key=payload.idempotency_key,
        due_at=due + timedelta(seconds=CLAIM_WITHIN_S),
        # one that is submitted for later waits from then on
        waiting_since=due if due_in_s else None,
    )
    return _insert(job, again)


def accept_invalid(kind: JobKind, job_id: str, sentence: str) -> None:
    """Keep a job that came by message and cannot be run, so that whoever asks learns why."""
    if len(job_id) > LONGEST_ID or not job_id.isprintable():
        return  # SQL cannot hold it; its sender learns why from the result
    _insert(
        Job(
            id=job_id, kind=kind.name, state=JobState.FAILED, queue=kind.queue, payload={},
            error_code="invalid", error=sentence, finished_at=utc_now(), due_at=None,
        ),
        again=True,
    )  # fmt: skip


def due_in(options: dict[str, Any]) -> float:
    """Seconds until a message with these Celery options should be run."""
    eta = options.get("eta")
    if isinstance(eta, datetime):
        return max(0.0, (eta.astimezone(UTC) - utc_now()).total_seconds())
    return float(options.get("countdown") or 0)


def _queue_of(kind: JobKind, payload: Any, job_id: str) -> str:
    """The queue of a job's tier. A model that is unknown is refused here, whether or not the job's wish is honoured;
    a header that is not honoured is not looked at, since anybody's client or proxy may send one."""
    try:
        if payload.model is not None:
            load_registry().resolve(payload.model, MODEL_KIND[kind.name])
        first = choose(kind, payload, job_id).candidates[0]
    except CannotSelect as error:
        raise InvalidJob(f"{kind.name}: {error}") from None
    kind.check_size(payload, first)
    return PREMIUM_QUEUE if kind.name == "generate" and first.premium else kind.queue


def _insert(job: Job, again: bool) -> Job:
    try:
        with write() as session:
            session.add(job)
    except IntegrityError:
        with read() as session:
            if (twin := _twin(session, job)) is not None:
                return twin
            if again:
                return _existing(session, job)
        raise InvalidJob(f"{job.kind}: there is a job with the id {job.id} already") from None
    return job


def _twin(session: Session, job: Job) -> Job | None:
    """The job that was submitted under the same idempotency key; it must be the same job."""
    twin = by_idempotency_key(session, job.idempotency_key) if job.idempotency_key else None
    if twin is not None and (twin.kind, twin.payload) != (job.kind, job.payload):
        raise InvalidJob(
            f"{job.kind}: field idempotency_key: job {twin.id} has this key and another input; give a new job a key of "
            "its own"
        )
    return twin


def _existing(session: Session, job: Job) -> Job:
    found = session.get(Job, job.id)
    if found is None:
        raise InvalidJob(f"{job.kind}: the job could not be written")
    return found
