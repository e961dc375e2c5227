"""The models' measured record, as this process last read it from SQL: every few seconds, and not on the way of each
job."""

import logging
import threading
import time
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from db.models import utc_now
from db.once import once_per_environment
from db.session import read
from db.statistics import by_model
from selection.adaptive import Record, Statistics

EVERY_S = 5.0
# The record is that of the latest calls, and of none that is older.
LATEST_CALLS = 30
WINDOW = timedelta(hours=1)

logger = logging.getLogger(__name__)


class _Measured:
    """The record and when it was read; one thread renews it while the others go on with the one there is."""

    def __init__(self) -> None:
        self.statistics: Statistics = {}
        self.due = 0.0
        self.lock = threading.Lock()

    def renewed(self) -> Statistics:
        if time.monotonic() >= self.due and self.lock.acquire(blocking=False):
            try:
                self.statistics = _read()
            except SQLAlchemyError as error:
                # the old one is good enough, and no job hangs on it
                logger.warning("the models' record could not be read: %s", type(error).__name__)
            finally:
                self.due = time.monotonic() + EVERY_S
                self.lock.release()
        return self.statistics


def _read() -> Statistics:
    with read() as session:
        rows = by_model(session, utc_now() - WINDOW, LATEST_CALLS)
    return {
        (row.model_name, row.task_type): Record(
            row.calls, int(row.cost), int(row.succeeded), int(row.tokens), row.p95_ms, row.quality
        )
        for row in rows
    }


@once_per_environment
def _record() -> _Measured:
    return _Measured()


def measured() -> Statistics:
    """The record of each model for each kind of job, a few seconds old at most."""
    return _record().renewed()
