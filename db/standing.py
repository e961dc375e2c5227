"""How things stand at this moment, for those who watch: cheap however many jobs are over."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import IS_LIVE, Alert, Job, JobState

# a worker may take them as soon as one is free
IN_QUEUES = (JobState.QUEUED, JobState.WAITING)


def live_jobs(session: Session) -> Sequence[Any]:
    """Jobs that are not over: `state`, `queue`, `kind`, their `number`, and when the `oldest` was accepted. The index
    `ix_jobs_live` answers it alone."""
    group = (Job.state, Job.queue, Job.kind)
    figures = (func.count().label("number"), func.min(Job.created_at).label("oldest"))
    return session.execute(select(*group, *figures).where(IS_LIVE).group_by(*group)).all()


def open_alerts(session: Session) -> list[tuple[str, int]]:
    """How many alerts of each kind have not cleared."""
    query = select(Alert.kind, func.count()).where(Alert.cleared_at.is_(None)).group_by(Alert.kind)
    return [(kind, number) for kind, number in session.execute(query)]
