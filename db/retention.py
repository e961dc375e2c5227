"""What people sent and what they got is removed some time after their jobs have ended. The rows stay: what was
paid, for whom, on which model and why, the keys of idempotency, and everything that is added up from them. Alerts that
are long over go as well; what was changed by hand is the record of who did so, and stays."""

import time
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, func, null, select, update
from sqlalchemy.orm import Session

from db.models import IS_WHOLE, Alert, Attempt, Delivery, Job, JobState, JobVectors, utc_now
from db.session import read, write

# what one transaction takes, so that nobody waits long for its locks, and how long others go first then
BATCH = 200
PAUSE_S = 0.05

# of a bare column SQLite would take the index of states, and walk through all jobs that are over
_FINAL = func.coalesce(Job.state, "").in_([state for state in JobState if state.final])


class Pruned(ValueError):
    """The job's input and result are not kept any more; the message says since when."""


def sentence(job: Job) -> str:
    """What to say to whoever wants a job that was pruned."""
    return f"the input and the result of job {job.id} were removed on {job.pruned_at:%Y-%m-%d}; its figures are kept"


def prune(days: int) -> int:
    """Remove the texts and vectors of the jobs that ended more than `days` days ago, in batches; how many jobs. It may
    be broken off, be repeated, and run more than once at a time."""
    before = _before(days)
    done = 0
    while True:
        with write() as session:
            pruned = _prune_some(session, before)
        if not pruned:
            return done
        done += pruned
        time.sleep(PAUSE_S)


def prune_alerts(days: int) -> int:
    """Remove alerts that are over since more than `days` days, with their deliveries; how many."""
    with write() as session:
        old = select(Alert.id).where(Alert.cleared_at < _before(days))
        session.execute(delete(Delivery).where(Delivery.alert_id.in_(old)))
        done = session.execute(delete(Alert).where(Alert.cleared_at < _before(days)))
    return cast("CursorResult[Any]", done).rowcount


def prunable(days: int) -> tuple[int, int]:
    """How many jobs `prune`, and how many alerts `prune_alerts` would take now."""
    with read() as session:
        jobs = select(func.count()).select_from(Job).where(*_old(_before(days)))
        alerts = select(func.count()).select_from(Alert).where(Alert.cleared_at < _before(days))
        return session.scalar(jobs) or 0, session.scalar(alerts) or 0


def _before(days: int) -> datetime:
    return utc_now() - timedelta(days=days)


def _old(before: datetime) -> tuple[Any, ...]:
    return IS_WHOLE, Job.finished_at < before, _FINAL


def oldest(before: datetime, limit: int) -> Any:
    """The ids of those that ended before then and are whole."""
    return select(Job.id).where(*_old(before)).order_by(Job.finished_at).limit(limit)


def _prune_some(session: Session, before: datetime) -> int:
    # one that somebody starts again at this moment is locked, and not final any more
    ids = session.scalars(oldest(before, BATCH).with_for_update(skip_locked=True)).all()
    if not ids:
        return 0
    nothing: dict[str, Any] = {"payload": {}, "result": null(), "message": null(), "error": null()}
    emptied = update(Job).where(Job.id.in_(ids)).values(**nothing, pruned_at=utc_now())
    done = session.execute(emptied.execution_options(synchronize_session=False))
    session.execute(delete(JobVectors).where(JobVectors.job_id.in_(ids)))
    told = Attempt.job_id.in_(ids) & Attempt.error.is_not(None)
    session.execute(update(Attempt).where(told).values(error=None).execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", done).rowcount
