"""`AsyncResult.revoke()` and `app.control.revoke()`: they cancel the job where it lives, in SQL."""

from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.app.control import Control as CeleryControl

from db.jobs import cancel
from db.models import Job
from db.session import read, write


def cancel_job(app: Celery, job_id: str) -> bool:
    """Cancel a job that has not begun; False if it has, is over or is none."""
    with write() as session:
        cancelled = cancel(session, job_id)
    if cancelled:
        tell_cancelled(app, job_id)
    return cancelled


def tell_cancelled(app: Celery, job_id: str) -> None:
    """Tell those who wait for a job that was cancelled. Workers need not be told: they would throw away its message
    even if it is started again later."""
    app.backend.mark_as_revoked(job_id, "cancelled before it ran")


def _is_job(job_id: str) -> bool:
    with read() as session:
        return session.get(Job, job_id) is not None


class Control(CeleryControl):
    """Celery's remote control, with a `revoke` that outlives workers, brokers and restarts."""

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel jobs that have not begun. One that is running goes on, since its call may be paid for. Workers are
        told of what is no job in SQL: other tasks, and jobs that were sent by name and have not arrived."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        others = [job_id for job_id in ids if not cancel_job(self.app, job_id) and not _is_job(job_id)]
        return super().revoke(others, *args, **options) if others else None
