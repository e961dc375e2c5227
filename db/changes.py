"""What people change while the system runs: limits, the strategy, the cost of an attempt. Each change is a row that
says who made it; the latest row of a subject is what holds."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Change


def in_force(session: Session, what: str, until: datetime | None = None) -> dict[str, str]:
    """subject -> value, for what was changed and not changed back; as it was at that moment, if one is given."""
    latest = select(func.max(Change.id)).where(Change.what == what).group_by(Change.subject)
    if until is not None:
        latest = latest.where(Change.created_at < until)
    rows = session.execute(select(Change.subject, Change.after).where(Change.id.in_(latest)))
    return {subject: after for subject, after in rows if after is not None}


def changed_since(session: Session, what: str, subject: str, moment: datetime) -> bool:
    """Whether this was changed since then."""
    mine = (Change.what == what, Change.subject == subject, Change.created_at >= moment)
    return session.scalar(select(Change.id).where(*mine).limit(1)) is not None


def version(session: Session, what: str) -> int:
    """A number that grows with every change."""
    return session.scalar(select(func.coalesce(func.max(Change.id), 0)).where(Change.what == what)) or 0


def record(session: Session, what: str, subject: str, before: str | None, after: str | None, who: str) -> None:
    """Note a change. `after` is None where the environment's value holds again."""
    session.add(Change(what=what, subject=subject, before=before, after=after, who=who[:80]))


def latest(session: Session, limit: int) -> Sequence[Change]:
    """The last changes, newest first."""
    return session.scalars(select(Change).order_by(Change.id.desc()).limit(limit)).all()
