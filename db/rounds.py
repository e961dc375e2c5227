"""Rounds of maintenance that may be missed, and go on from where the last one that ended well was begun."""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.models import Round, utc_now

logger = logging.getLogger(__name__)
ROLLUP, ALERTS, REPORT = "rollup", "alerts", "report"

NEVER = datetime(2000, 1, 1, tzinfo=UTC)
# How long it may take from the moment that a row names to its commit, and how far the clocks of two machines may be
# apart. What changed in there is looked at once more, which does no harm.
MARGIN = timedelta(hours=1)


class DaysFailed(Exception):
    """Some days of a round could not be done; the others were. The message names them. The round is not complete, so
    the next one tries them again, and `paymaster doctor` sees that they are behind."""

    def __init__(self, days: Sequence[str]) -> None:
        super().__init__(f"could not be done, the log says why: {', '.join(days)}")


def each_day(days: Iterable[str], do: Callable[[str], object]) -> list[str]:
    """Do something for each of these days, and return those for which it said something true. One that fails stops no
    other: it is logged, and `DaysFailed` names it when all are through."""
    done, failed = [], []
    for day in days:
        try:
            if do(day):
                done.append(day)
        except OperationalError:
            # the database is away, and would let each day wait as long
            raise
        except Exception as error:
            # its words may quote a row
            logger.error("day %s could not be done: %s", day, type(error).__name__)
            failed.append(day)
    if failed:
        raise DaysFailed(failed)
    return done


_ROUNDS = cast("Table", Round.__table__)


def last(session: Session, name: str) -> datetime:
    """When the last complete round was begun; `NEVER` if there was none."""
    return _believed(session.scalar(select(Round.begun_at).where(Round.name == name)))


def lock(session: Session, name: str) -> datetime:
    """The same, after waiting until no other round is between this and its commit. What is read from then on is no
    older than what that round read."""
    insert: Any = (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert
    session.execute(insert(_ROUNDS).values(name=name, begun_at=NEVER).on_conflict_do_nothing())
    # a write: where the database is set to snapshots of whole transactions, an old one fails here
    mine = _ROUNDS.update().where(_ROUNDS.c.name == name).values(begun_at=_ROUNDS.c.begun_at)
    return _believed(session.execute(mine.returning(_ROUNDS.c.begun_at)).scalar_one())


def complete(session: Session, name: str, begun_at: datetime) -> None:
    """Note that a round which began then has done all that there was before."""
    latest = max(lock(session, name), begun_at)
    session.execute(_ROUNDS.update().where(_ROUNDS.c.name == name).values(begun_at=latest))


def all_rounds(session: Session) -> list[tuple[str, datetime]]:
    """When each round last began."""
    return [(name, begun_at) for name, begun_at in session.execute(select(Round.name, Round.begun_at))]


def _believed(begun_at: datetime | None) -> datetime:
    """Who noted a moment that is still to come had a wrong clock: what came before it may not have been seen."""
    return NEVER if begun_at is None or begun_at > utc_now() + MARGIN else begun_at
