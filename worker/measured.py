"""The models' measured record, as this process last read it from SQL."""

from datetime import timedelta

from db.models import utc_now
from db.once import once_per_environment
from db.session import read
from db.statistics import by_model
from selection.adaptive import Record, Statistics
from worker.renewed import Renewed

EVERY_S = 5.0
# The record is that of the latest calls, and of none that is older.
LATEST_CALLS = 30
WINDOW = timedelta(hours=1)


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
def _record() -> Renewed[Statistics]:
    return Renewed("the models' record", _read, {}, EVERY_S)


def measured() -> Statistics:
    """The record of each model for each kind of job, a few seconds old at most."""
    return _record()()
