"""The day and the month that pay for a call, in the budget's time zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Periods:
    """A day (`2026-11-22`) and its month (`2026-11`), with the bounds of the day and the end of the month
    as whole seconds since 1970."""

    day: str
    month: str
    day_start: int
    day_end: int
    month_end: int


def periods_at(moment: float, zone: tzinfo) -> Periods:
    """The periods that hold `moment` (seconds since 1970). Days of 23 and 25 hours are as long as they are."""
    return _periods_of(datetime.fromtimestamp(moment, zone).date(), zone)


@lru_cache(maxsize=8)
def _periods_of(day: date, zone: tzinfo) -> Periods:
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    next_day = datetime.combine(day + timedelta(days=1), midnight.time(), tzinfo=zone)
    next_month = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=zone)
    return Periods(
        day=day.isoformat(),
        month=f"{day.year:04}-{day.month:02}",
        day_start=_seconds(midnight),
        day_end=_seconds(next_day),
        month_end=_seconds(next_month),
    )


def _seconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())
