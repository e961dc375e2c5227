"""One round of the daily rollup: every day of which an attempt was settled or corrected since the last one."""

import logging

from db.models import utc_now
from db.rollup import days_since, roll_up_day
from db.rounds import MARGIN, ROLLUP, complete, each_day, lock
from db.session import read, write

logger = logging.getLogger(__name__)


def roll_up() -> list[str]:
    """Do a round, and return its days. It goes on from the last complete one, however long ago that was. Many may run
    at once, and one that ends before its time is made up for by the next. `DaysFailed` if a day could not be done."""
    begun_at = utc_now()
    with write() as session:
        last = lock(session, ROLLUP)
    with read() as session:
        days = list(days_since(session, last - MARGIN))
    each_day(days, _roll_up)
    with write() as session:
        complete(session, ROLLUP, begun_at)
    logger.info("rolled up %d days", len(days))
    return days


def _roll_up(day: str) -> None:
    # a transaction each: on SQLite nobody else writes meanwhile
    with write() as session:
        lock(session, ROLLUP)
        roll_up_day(session, day)
