"""Alerts and their way to people. An alert is one row, whoever sees the reason and however often; a delivery is that
alert on its way over one channel. Sending may repeat after a crash, the rows cannot."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import CursorResult, Table, and_, exists, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.models import Alert, Attempt, Delivery, utc_now

# what nobody has handed out for so long is no news any more
NEWS_FOR = timedelta(days=2)
MOST_ERROR_CHARS = 200


class AlertKind(StrEnum):
    """What an alert is about; beside it, what its subject is."""

    BUDGET = "budget"  # daily, monthly or user:<id>
    P95 = "p95"  # a model
    FAILURES = "failures"  # a model
    QUALITY = "quality"  # a strategy


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to alert of. The first four fields say which alert it is: there is one row of each."""

    kind: AlertKind
    subject: str
    period: str
    threshold: str
    message: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (str(self.kind), self.subject, self.period, self.threshold)


_KEY = (Alert.kind, Alert.subject, Alert.period, Alert.threshold)
_ALERTS, _DELIVERIES = cast("Table", Alert.__table__), cast("Table", Delivery.__table__)


def _insert_or_ignore(session: Session, table: Table, rows: list[dict[str, Any]]) -> int:
    """How many of the rows are new."""
    insert: Any = (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert
    # the rows that come back are counted, since PostgreSQL's driver does not count the others
    new = insert(table).values(rows).on_conflict_do_nothing().returning(*table.primary_key)
    return len(session.execute(new).all())


def raise_alert(session: Session, notice: Notice) -> bool:
    """Write the alert, unless it is there already: then it is opened again if it was cleared. Whether it is new."""
    row = dict(zip(("kind", "subject", "period", "threshold"), notice.key, strict=True))
    if _insert_or_ignore(session, _ALERTS, [{**row, "message": notice.message, "created_at": utc_now()}]):
        return True
    mine = and_(*(column == value for column, value in zip(_KEY, notice.key, strict=True)))
    session.execute(update(Alert).where(mine, Alert.cleared_at.is_not(None)).values(cleared_at=None))
    return False


def keys(
    session: Session, kinds: Collection[AlertKind], periods: Collection[str], *, only_open: bool
) -> set[tuple[str, ...]]:
    """The keys of the alerts of these kinds and periods; only of those that are not cleared, if that is asked."""
    found = select(*_KEY).where(Alert.kind.in_(kinds), Alert.period.in_(periods))
    return {tuple(row) for row in session.execute(found.where(Alert.cleared_at.is_(None)) if only_open else found)}


def clear(session: Session, keys: Iterable[tuple[str, ...]]) -> None:
    """What these alerts told is over."""
    if found := list(keys):
        session.execute(update(Alert).where(tuple_(*_KEY).in_(found)).values(cleared_at=utc_now()))


def clear_before(session: Session, periods: Collection[str]) -> int:
    """Clear the alerts of all periods but these, which are the current ones."""
    over = Alert.cleared_at.is_(None) & Alert.period.not_in(periods)
    if session.scalar(select(Alert.id).where(over).limit(1)) is None:
        return 0
    done = session.execute(update(Alert).where(over).values(cleared_at=utc_now()))
    return cast("CursorResult[Any]", done).rowcount


def latest(session: Session, limit: int, *, only_open: bool) -> Sequence[tuple[Alert, Sequence[Delivery]]]:
    """The last alerts, newest first, each with its deliveries."""
    wanted = select(Alert).order_by(Alert.id.desc()).limit(limit)
    found = session.scalars(wanted.where(Alert.cleared_at.is_(None)) if only_open else wanted).all()
    ids = [alert.id for alert in found]
    ways: dict[int, list[Delivery]] = {alert_id: [] for alert_id in ids}
    for way in session.scalars(select(Delivery).where(Delivery.alert_id.in_(ids)).order_by(Delivery.channel)):
        ways[way.alert_id].append(way)
    return [(alert, ways[alert.id]) for alert in found]


def hand_out(session: Session, channels: Sequence[str]) -> int:
    """Send alerts that are not on their way yet over these channels, at most 200 at once; how many deliveries that
    makes. Two that do so at once hand out once."""
    waits = (Alert.created_at >= utc_now() - NEWS_FOR) & ~exists().where(Delivery.alert_id == Alert.id)
    ids = session.scalars(select(Alert.id).where(waits).order_by(Alert.id).limit(200)).all()
    rows = [
        {"alert_id": alert_id, "channel": channel, "tries": 0, "due_at": utc_now()}
        for alert_id in ids
        for channel in channels
    ]
    return _insert_or_ignore(session, _DELIVERIES, rows) if rows else 0


def due_channels(session: Session) -> Sequence[str]:
    """The channels that have something to send now."""
    return session.scalars(select(Delivery.channel).where(Delivery.due_at <= utc_now()).distinct()).all()


def claim(session: Session, channel: str, lease_s: float) -> tuple[Alert, int] | None:
    """Take what is longest due on a channel, and count the try: nobody else takes it before the lease is over. The
    alert and how often it was tried; None if there is nothing to send."""
    now = utc_now()
    first = (
        select(Delivery.alert_id)
        .where(Delivery.channel == channel, Delivery.due_at <= now)
        .order_by(Delivery.due_at, Delivery.alert_id)
        .limit(1)
        .scalar_subquery()
    )
    taken = session.execute(
        # of two that found the same one, the second finds that it is not due any more
        update(Delivery)
        .where(Delivery.alert_id == first, Delivery.channel == channel, Delivery.due_at <= now)
        .values(due_at=now + timedelta(seconds=lease_s), tries=Delivery.tries + 1)
        .returning(Delivery.alert_id, Delivery.tries)
        .execution_options(synchronize_session=False)
    ).first()
    return None if taken is None else (session.get_one(Alert, taken.alert_id), taken.tries)


def sent(session: Session, alert_id: int, channel: str, remark: str | None) -> None:
    """The delivery is done; `remark` is what was not quite right about it."""
    _end_try(session, alert_id, channel, due_at=None, sent_at=utc_now(), error=remark)


def failed(session: Session, alert_id: int, channel: str, error: str, again_at: datetime | None) -> None:
    """The delivery is tried again then, or given up (None)."""
    _end_try(session, alert_id, channel, due_at=again_at, error=error)


def _end_try(session: Session, alert_id: int, channel: str, *, error: str | None, **values: Any) -> None:
    short = None if error is None else error[:MOST_ERROR_CHARS]
    mine = (Delivery.alert_id == alert_id, Delivery.channel == channel, Delivery.sent_at.is_(None))
    session.execute(update(Delivery).where(*mine).values(error=short, **values))


def users_charged(session: Session, since: datetime) -> Sequence[str]:
    """The users of whom a call has ended since then."""
    charged = select(Attempt.user_id).where(Attempt.user_id.is_not(None), Attempt.settled_at >= since).distinct()
    return cast("Sequence[str]", session.scalars(charged).all())
