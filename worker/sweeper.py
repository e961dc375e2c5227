"""What keeps promises when something broke: jobs whose runner or message was lost, reservations whose call
never ended, counters that Redis forgot; and jobs that wait for a budget. Every step may run twice, and two
sweepers at once do no harm."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from budget.errors import LedgerDown
from budget.ledger import ledger
from budget.limits import limits_in_force
from budget.rebuild import rebuild_if_cold
from db import jobs
from db.jobs import LEASE_S
from db.models import Attempt, AttemptState, CostBasis, Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from worker.attempt import RESERVATION_LEASE_S
from worker.deferred import with_room
from worker.metrics import count_abandoned
from worker.spool import drain

# a job that is published again is left alone for this long
PATIENCE_S = 30
# of deferred jobs in one round
MOST_RELEASED = 500
# a queue that is never empty may have lost a message too
LOST_IN_A_FULL_QUEUE_S = 600

# after an outage of SQL, runners that live get two beats of their heartbeat to say so
AFTER_OUTAGE_S = 2 * LEASE_S / 3

logger = logging.getLogger(__name__)


# steps that take silence for death
ABOUT_RUNNERS = ("reservations", "orphans")


class _SqlWatch:
    """Since when SQL has been there without a gap, as far as this process has looked. It looks by itself, too: of many
    workers of `maintenance` each sweeps so seldom that it would know nothing of the time between."""

    def __init__(self) -> None:
        self._since = self._seen = float("-inf")
        threading.Thread(target=self._watch, name="sql-watch", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(LEASE_S / 3) and _sql_watch.peek() is self:
            self.is_steady()

    def is_steady(self) -> bool:
        """Whether it has been for so long that every living runner has renewed its lease."""
        now = time.monotonic()
        if now - self._seen > LEASE_S:
            self._since = now
        try:
            with read() as session:
                session.execute(text("SELECT 1"))
        except SQLAlchemyError:
            self._seen = float("-inf")
            return False
        self._seen = now
        return now - self._since >= AFTER_OUTAGE_S


@once_per_environment
def _sql_watch() -> _SqlWatch:
    return _SqlWatch()


def sweep(app: Celery) -> dict[str, int]:
    """One round. Returns what was done, by name."""
    steps: dict[str, Callable[[], int]] = {
        # money first: it needs no broker
        "drained": lambda: drain(app),
        "rebuilt": lambda: rebuild_if_cold(ledger()),
        "limits": _take_limits,
        "reservations": _end_overdue,
        "released": lambda: _publish(app, _release_deferred()),
        "orphans": lambda: _publish(app, _free_orphans()),
        "overdue": lambda: _publish(app, _overdue_in_empty_queues(app)),
    }
    done: dict[str, int] = {}
    runners_are_heard = _sql_watch().is_steady()
    for name, step in steps.items():
        if name in ABOUT_RUNNERS and not runners_are_heard:
            continue
        try:
            if count := int(step()):
                done[name] = count
        except Exception as error:
            # each is tried again in the next round, and one that fails must not keep the others from working
            logger.warning("sweep: %s failed: %s", name, type(error).__name__)
    if done:
        logger.warning("sweep: %s", done)
    with suppress(LedgerDown):
        ledger().note_sweep()
    return done


def _publish(app: Celery, found: list[Job]) -> int:
    """One that cannot be published keeps nobody behind it waiting; it is overdue soon, and tried again."""
    published = 0
    for job in found:
        try:
            if job.message:
                app.signature(job.message).apply_async()
            else:
                app.send_task(f"tasks.{job.kind}", task_id=job.id, queue=job.queue)
            published += 1
        except Exception as error:
            logger.warning("sweep: job %s could not be published: %s", job.id, type(error).__name__)
    return published


def _take(job: Job) -> Job:
    job.state, job.runner, job.lease_until = JobState.QUEUED, None, None
    job.due_at = utc_now() + timedelta(seconds=PATIENCE_S)
    return job


def _free_orphans() -> list[Job]:
    with write() as session:
        orphans = jobs.orphaned(session, utc_now())
        for job in orphans:
            job.lost_runs += 1
            job.waiting_since = job.lease_until
        return [_take(job) for job in orphans]


def _release_deferred() -> list[Job]:
    if not (ids := with_room(ledger())):
        return []
    with write() as session:
        released = jobs.release(session, ids[:MOST_RELEASED])
        for job in released:
            job.waiting_since = utc_now()
        return [_take(job) for job in released]


def _overdue_in_empty_queues(app: Celery) -> list[Job]:
    """Jobs that nobody claimed though their queue holds nothing more: their message was lost. Where messages
    wait, the job's own is most likely among them."""
    with read() as session:
        queues = {job.queue for job in jobs.overdue(session, utc_now())}
    if not queues:
        return []
    with app.connection_for_write() as connection:
        empty = {queue for queue in queues if _is_empty(connection, queue)}
    long_ago = utc_now() - timedelta(seconds=LOST_IN_A_FULL_QUEUE_S)
    with write() as session:
        found = jobs.overdue(session, utc_now())
        return [_take(job) for job in found if job.queue in empty or (job.due_at and job.due_at < long_ago)]


def _is_empty(connection: Any, queue: str) -> bool:
    # a channel each: RabbitMQ closes it on a passive declaration that finds nothing
    with connection.channel() as channel:
        try:
            return bool(channel.queue_declare(queue=queue, passive=True).message_count == 0)
        except connection.channel_errors:
            # Redis has no empty lists
            return True


def _take_limits() -> int:
    """Limits that were set by hand hold in Redis, too, even if whoever set them could not reach it."""
    with read() as session:
        limits = limits_in_force(session)
    ledger().take_limits(*limits)
    return 0


def _end_overdue() -> int:
    """Reservations whose lease has ended get what SQL knows: nothing recorded means that nothing was sent, and a call
    whose runner is alive gets more time."""
    ended = 0
    for attempt_id, scope_keys in ledger().overdue():
        with write() as session:
            outcome = _outcome(session, attempt_id)
        try:
            if outcome is None:
                ledger().extend(attempt_id, RESERVATION_LEASE_S)
            else:
                ledger().conclude(attempt_id, scope_keys, *outcome)
                ended += 1
        except LedgerDown as error:
            # it may be this one only: a counter that is not what we wrote
            logger.warning("sweep: attempt %s cannot be settled: %s", attempt_id, error)
            ledger().extend(attempt_id, PATIENCE_S)
    return ended


def _outcome(session: Session, attempt_id: str) -> tuple[CostBasis, int, str] | None:
    """How the cost of an attempt is known, what it is in nano-USD, and its model; None of a call whose runner lives."""
    attempt = session.get(Attempt, attempt_id)
    if attempt is None:
        return CostBasis.NOT_BILLED, 0, ""
    if attempt.state == AttemptState.CALLING:
        if _is_under_way(session, attempt):
            return None
        count_abandoned(jobs.close_abandoned(session, attempt.job_id))
        jobs.recount_cost(session, attempt.job_id)
    return attempt.cost_basis or CostBasis.RESERVATION, attempt.cost_nano, attempt.model_name


def _is_under_way(session: Session, attempt: Attempt) -> bool:
    """Whether the runner of a call is alive; locks the job's row."""
    lease = session.get_one(Job, attempt.job_id, with_for_update=True).lease_until
    return lease is not None and lease > utc_now()
