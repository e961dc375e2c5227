"""Let a job that is over run once more, because somebody says so."""

from contextlib import suppress

from celery import Celery

from budget.ledger import ledger
from db import jobs
from db.changes import record
from db.models import Job
from db.retention import sentence
from db.session import read, write


class NotOver(ValueError):
    """Only a job that has failed or was cancelled, and whose input is still there, can be started again."""


def run_again(app: Celery, job_id: str, who: str) -> None:
    """Publish the job anew. Its attempts stay, and count for its cost and its cap, but no longer as failures.

    Raises `NotOver`, or `LedgerDown`; if the broker is away, the sweeper publishes the job later."""
    with read() as session:
        # while the job is over nothing is reserved for it
        job, cost = session.get_one(Job, job_id), jobs.cost_of(session, job_id)
        state = job.state
        if job.pruned_at is not None:
            raise NotOver(f"{sentence(job)}, so it cannot be started again")
    if state in jobs.OVER:
        ledger().restore_job(job_id, cost)
    with write() as session:
        if not jobs.start_again(session, job_id):
            raise NotOver(f"job {job_id} is {state}; only a failed or cancelled one can be started again")
        record(session, "retry", job_id, state, "queued", who)
    with suppress(NotImplementedError):  # a backend that keeps nothing
        # whoever asks must not get the old outcome meanwhile
        app.backend.forget(job_id)
    app.send_task(f"tasks.{job.kind}", task_id=job_id, queue=job.queue)
