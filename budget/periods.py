"""The day and the month that pay for a call, in the budget's time zone."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo


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
    local = datetime.fromtimestamp(moment, zone)
    midnight = datetime(local.year, local.month, local.day, tzinfo=zone)
    next_day = datetime.combine(local.date() + timedelta(days=1), midnight.time(), tzinfo=zone)
    next_month = datetime(local.year + local.month // 12, local.month % 12 + 1, 1, tzinfo=zone)
    return Periods(
        day=local.date().isoformat(),
        month=f"{local.year:04}-{local.month:02}",
        day_start=_seconds(midnight),
        day_end=_seconds(next_day),
        month_end=_seconds(next_month),
    )


def _seconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())
