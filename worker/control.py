"""`AsyncResult.revoke()` and `app.control.revoke()`: they cancel the job where it lives, in SQL."""

from collections.abc import Sequence
from typing import Any

from celery.app.control import Control as CeleryControl

from db.jobs import cancel
from db.session import write


class Control(CeleryControl):
    """Celery's remote control, with a `revoke` that outlives workers, brokers and restarts."""

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel jobs that have not begun. One that is running goes on, since its call may be paid for."""
        others = []
        for job_id in [task_id] if isinstance(task_id, str) else list(task_id):
            with write() as session:
                cancelled = cancel(session, job_id)
            if cancelled:
                # workers need not be told: they would throw away its message even if it is started again later
                self.app.backend.mark_as_revoked(job_id, "cancelled before it ran")
            else:
                others.append(job_id)
        return super().revoke(others, *args, **options) if others else None
