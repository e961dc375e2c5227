"""What keeps promises when something broke: jobs whose runner or message was lost, reservations whose call
never ended, counters that Redis forgot; and jobs that wait for a budget. Every step may run twice, and two
sweepers at once do no harm."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import Celery
from sqlalchemy.orm import Session

from budget.ledger import ledger
from budget.limits import limits_in_force
from budget.rebuild import rebuild_if_cold
from db import jobs
from db.models import Attempt, AttemptState, CostBasis, Job, JobState, utc_now
from db.session import read, write
from worker.attempt import RESERVATION_LEASE_S
from worker.deferred import with_room
from worker.spool import drain

# a job that is published again is left alone for this long
PATIENCE_S = 30
# a queue that is never empty may have lost a message too
LOST_IN_A_FULL_QUEUE_S = 600

logger = logging.getLogger(__name__)


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
    for name, step in steps.items():
        try:
            if count := int(step()):
                done[name] = count
        except Exception as error:
            # each is tried again in the next round, and one that fails must not keep the others from working
            logger.warning("sweep: %s failed: %s", name, type(error).__name__)
    if done:
        logger.warning("sweep: %s", done)
    return done


def _publish(app: Celery, found: list[Job]) -> int:
    for job in found:
        if job.message:
            app.signature(job.message).apply_async()
        else:
            app.send_task(f"tasks.{job.kind}", task_id=job.id, queue=job.queue)
    return len(found)


def _take(job: Job) -> Job:
    job.state, job.runner, job.lease_until = JobState.QUEUED, None, None
    job.due_at = utc_now() + timedelta(seconds=PATIENCE_S)
    return job


def _free_orphans() -> list[Job]:
    with write() as session:
        orphans = jobs.orphaned(session, utc_now())
        for job in orphans:
            job.lost_runs += 1
        return [_take(job) for job in orphans]


def _release_deferred() -> list[Job]:
    with write() as session:
        return [_take(job) for job in with_room(ledger(), jobs.deferred(session))]


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
    overdue = ledger().overdue()
    with read() as session:
        alive = {attempt_id for attempt_id, _ in overdue if _is_under_way(session, attempt_id)}
    for attempt_id, scope_keys in overdue:
        if attempt_id in alive:
            ledger().extend(attempt_id, RESERVATION_LEASE_S)
            continue
        with write() as session:
            basis, cost = _outcome(session, attempt_id)
        ledger().conclude(attempt_id, scope_keys, basis, cost)
    return len(overdue) - len(alive)


def _is_under_way(session: Session, attempt_id: str) -> bool:
    """Whether the runner of a call is alive."""
    attempt = session.get(Attempt, attempt_id)
    if attempt is None or attempt.state != AttemptState.CALLING:
        return False
    lease = session.get_one(Job, attempt.job_id).lease_until
    return lease is not None and lease > utc_now()


def _outcome(session: Session, attempt_id: str) -> tuple[CostBasis, int]:
    """What an attempt has cost that nobody is making any more, in nano-USD, and how that is known."""
    attempt = session.get(Attempt, attempt_id)
    if attempt is None:
        return CostBasis.NOT_BILLED, 0
    if attempt.state == AttemptState.CALLING:
        jobs.close_abandoned(session, attempt.job_id)
        jobs.recount_cost(session, attempt.job_id)
    return attempt.cost_basis or CostBasis.RESERVATION, attempt.cost_nano
