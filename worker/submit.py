"""How a job is accepted: checked, given its queue, and written to SQL before any message leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db.jobs import CLAIM_WITHIN_S, by_idempotency_key
from db.models import Job, JobState, utc_now
from db.session import read
from db.writer import group_writer
from selection.errors import CannotSelect
from selection.registry import load_registry
from selection.select import Selection
from selection.strategies import model_kind
from worker.choose import choose
from worker.errors import InvalidJob
from worker.kind import JobKind
from worker.queues import queue_of

LONGEST_ID = 64

# built once: building it costs more than running it
_INSERT = insert(cast("Table", Job.__table__))


@dataclass(frozen=True, slots=True)
class Order:
    """A job that has been checked and is not written yet, and the models that it would run on."""

    kind: JobKind
    payload: Any
    job: Job
    selection: Selection


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
    return place(prepare(kind, job_id, fields, due_in_s=due_in_s).job, again)


def prepare(kind: JobKind, job_id: str, fields: dict[str, Any], *, due_in_s: float = 0) -> Order:
    """Check a job; `InvalidJob` says what is wrong. Nothing is written."""
    if not 1 <= len(job_id) <= LONGEST_ID or not job_id.isprintable():
        raise InvalidJob(f"{kind.name}: a task id has 1 to {LONGEST_ID} printable characters")
    payload = kind.payload(fields)
    selection = _select(kind, payload, job_id)
    due = utc_now() + timedelta(seconds=due_in_s)
    job = Job(
        id=job_id,
        kind=kind.name,
        state=JobState.QUEUED,
        queue=queue_of(kind.name, premium=selection.candidates[0].premium),
        user_id=payload.user_id,
        api=payload.api,
        payload=payload.model_dump(mode="json", exclude_none=True),
        idempotency_key=payload.idempotency_key,
        due_at=due + timedelta(seconds=CLAIM_WITHIN_S),
        # one that is submitted for later waits from then on
        waiting_since=due if due_in_s else None,
    )
    return Order(kind, payload, job, selection)


def accept_invalid(kind: JobKind, job_id: str, sentence: str) -> None:
    """Keep a job that came by message and cannot be run, so that whoever asks learns why."""
    if len(job_id) > LONGEST_ID or not job_id.isprintable():
        return  # SQL cannot hold it; its sender learns why from the result
    place(
        Job(
            id=job_id, kind=kind.name, state=JobState.FAILED, queue=queue_of(kind.name), payload={},
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


def _select(kind: JobKind, payload: Any, job_id: str) -> Selection:
    """The models of a job. One that is unknown is refused here, whether or not the job's wish is honoured; a header
    that is not honoured is not looked at, since anybody's client or proxy may send one."""
    try:
        if payload.model is not None:
            load_registry().resolve(payload.model, model_kind(kind.name))
        selection = choose(kind, payload, job_id)
    except CannotSelect as error:
        raise InvalidJob(f"{kind.name}: {error}") from None
    kind.check_size(payload, selection.candidates[0])
    return selection


def place(job: Job, again: bool = False) -> Job:
    """Write the row of a job, together with those of other threads; the job that counts, see `accept`."""
    row = _row(job)
    try:
        group_writer().commit(lambda session: session.execute(_INSERT, row))
    except IntegrityError:
        with read() as session:
            if (twin := _twin(session, job)) is not None:
                return twin
            if again:
                return _existing(session, job)
        raise InvalidJob(f"{job.kind}: there is a job with the id {job.id} already") from None
    return job


def place_all(jobs: Sequence[Job]) -> list[Job | InvalidJob]:
    """Write many jobs in one transaction; for each the job that counts, or why there is none."""
    rows = [_row(job) for job in jobs]
    try:
        if rows:
            group_writer().commit(lambda session: session.execute(_INSERT, rows))
    except IntegrityError:
        return [_place_one(job) for job in jobs]
    return list(jobs)


def _place_one(job: Job) -> Job | InvalidJob:
    try:
        return place(job)
    except InvalidJob as error:
        return error


def _row(job: Job) -> dict[str, Any]:
    """The columns of a job that somebody has set; the others have defaults."""
    return {name: value for name, value in vars(job).items() if name != "_sa_instance_state"}


def _twin(session: Session, job: Job) -> Job | None:
    """The job that was submitted for the same user under the same idempotency key; it must be the same job."""
    twin = by_idempotency_key(session, job.user_id, job.idempotency_key) if job.idempotency_key else None
    if twin is None or (twin.pruned_at is not None and twin.kind == job.kind):
        # of one that was pruned nobody knows the input any more
        return twin
    if (twin.kind, twin.payload) != (job.kind, job.payload):
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
