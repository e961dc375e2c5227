"""The day and the month that pay, in any time zone, on days of 23, 24 and 25 hours."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.periods import periods_at

ZONES = (
    "UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Kiritimati",
    "Pacific/Pago_Pago", "Australia/Lord_Howe", "America/Havana", "Africa/Cairo", "Asia/Beirut", "America/Santiago",
)  # fmt: skip


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("zone", "moment", "day", "hours"),
    [
        ("UTC", "2026-11-22T12:00", "2026-11-22", 24),
        ("UTC", "2026-03-29T12:00", "2026-03-29", 24),
        ("Europe/Berlin", "2026-03-28T12:00", "2026-03-28", 24),
        ("Europe/Berlin", "2026-03-29T00:00", "2026-03-29", 23),
        ("Europe/Berlin", "2026-03-29T23:59:59", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25T00:00", "2026-10-25", 25),
        ("Europe/Berlin", "2026-10-25T23:59:59", "2026-10-25", 25),
        ("America/Los_Angeles", "2026-03-08T12:00", "2026-03-08", 23),
        ("America/Los_Angeles", "2026-11-01T01:30", "2026-11-01", 25),
        ("America/Los_Angeles", "2026-11-02T00:00", "2026-11-02", 24),
        ("Africa/Cairo", "2026-04-24T12:00", "2026-04-24", 23),  # midnight itself does not exist
        ("Australia/Lord_Howe", "2026-04-05T12:00", "2026-04-05", 24.5),
    ],
)
def test_a_day_is_as_long_as_it_is(zone: str, moment: str, day: str, hours: float) -> None:
    found = periods_at(at(moment, zone), ZoneInfo(zone))
    assert (found.day, found.day_end - found.day_start) == (day, hours * 3600)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles"])
@pytest.mark.parametrize(
    ("midnight", "before", "after"),
    [
        ("2026-11-22", ("2026-11-21", "2026-11"), ("2026-11-22", "2026-11")),
        ("2026-12-01", ("2026-11-30", "2026-11"), ("2026-12-01", "2026-12")),
        ("2027-01-01", ("2026-12-31", "2026-12"), ("2027-01-01", "2027-01")),
        ("2026-03-01", ("2026-02-28", "2026-02"), ("2026-03-01", "2026-03")),
        ("2028-02-29", ("2028-02-28", "2028-02"), ("2028-02-29", "2028-02")),
        ("2028-03-01", ("2028-02-29", "2028-02"), ("2028-03-01", "2028-03")),
        ("2026-10-26", ("2026-10-25", "2026-10"), ("2026-10-26", "2026-10")),
        ("2026-04-01", ("2026-03-31", "2026-03"), ("2026-04-01", "2026-04")),
    ],
)
def test_a_day_begins_at_midnight_and_not_a_moment_sooner(
    zone: str, midnight: str, before: tuple[str, str], after: tuple[str, str]
) -> None:
    moment = at(f"{midnight}T00:00", zone)
    ending, beginning = periods_at(moment - 0.001, ZoneInfo(zone)), periods_at(moment, ZoneInfo(zone))
    assert (ending.day, ending.month) == before
    assert (beginning.day, beginning.month) == after
    assert ending.day_end == beginning.day_start == moment


@pytest.mark.parametrize(
    ("zone", "moment", "end"),
    [
        ("UTC", "2026-11-22T12:00", "2026-12-01T00:00"),
        ("UTC", "2026-12-31T23:59:59", "2027-01-01T00:00"),
        ("UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("UTC", "2026-01-31T12:00", "2026-02-01T00:00"),
        ("UTC", "2028-02-29T12:00", "2028-03-01T00:00"),
        ("Europe/Berlin", "2026-10-01T00:00", "2026-11-01T00:00"),
        ("Europe/Berlin", "2026-03-31T23:00", "2026-04-01T00:00"),
        ("America/Los_Angeles", "2026-12-31T23:00", "2027-01-01T00:00"),
    ],
)
def test_a_month_ends_where_the_next_begins(zone: str, moment: str, end: str) -> None:
    assert periods_at(at(moment, zone), ZoneInfo(zone)).month_end == at(end, zone)


def test_the_same_moment_is_another_day_elsewhere() -> None:
    moment = at("2026-12-31T23:30")
    found = {zone: periods_at(moment, ZoneInfo(zone)) for zone in ("UTC", "Europe/Berlin", "America/Los_Angeles")}
    assert {zone: (p.day, p.month) for zone, p in found.items()} == {
        "UTC": ("2026-12-31", "2026-12"),
        "Europe/Berlin": ("2027-01-01", "2027-01"),
        "America/Los_Angeles": ("2026-12-31", "2026-12"),
    }


@given(
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2036, 12, 31), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
)
@settings(max_examples=250, deadline=None)
def test_every_moment_has_one_day_and_days_leave_no_gap(moment: datetime, zone: str) -> None:
    second = moment.timestamp()
    today = periods_at(second, ZoneInfo(zone))
    assert today.day == moment.astimezone(ZoneInfo(zone)).date().isoformat()
    assert today.day.startswith(today.month)
    assert today.day_start <= second < today.day_end <= today.month_end
    tomorrow = periods_at(today.day_end, ZoneInfo(zone))
    assert tomorrow.day_start == today.day_end
    assert tomorrow.day > today.day
    assert (tomorrow.month != today.month) == (today.day_end == today.month_end)


def test_bounds_are_whole_seconds() -> None:
    found = periods_at(1_795_000_000.75, ZoneInfo("Europe/Berlin"))
    assert {type(bound) for bound in (found.day_start, found.day_end, found.month_end)} == {int}
