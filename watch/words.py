"""How the figures of a report are said to people."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from budget.money import format_usd

NONE = "–"
# joins the parts of letters and emoji
JOINERS = "\u200c\u200d"


def visible(text: Any) -> str:
    """The text without control characters and the like."""
    return "".join(c if c.isprintable() or c in JOINERS else "�" for c in str(text))


def usd(nano: int) -> str:
    """An exact amount, which may be less than nothing."""
    return format_usd(nano) if nano >= 0 else f"−{format_usd(-nano)}"


def percent(part: int, whole: int) -> str:
    """`41.2 %`, to a tenth, rounded down, so that 100.0 % is all."""
    return f"{Decimal(part * 1000 // whole) / 10:.1f} %" if whole else NONE


def saved(cost: int, instead: int) -> str:
    """Which share of `instead` was saved."""
    return f"{'−' if cost > instead else ''}{percent(abs(instead - cost), instead)}" if instead else NONE


def seconds(milliseconds: int | None) -> str:
    return NONE if milliseconds is None else f"{Decimal(milliseconds) / 1000:.2f} s"


def score(quality: float | None) -> str:
    return NONE if quality is None else f"{quality:.3f}"


def number(count: int) -> str:
    return f"{count:,}"


def long_day(day: str) -> str:
    """`Sunday, 22 November 2026`."""
    found = date.fromisoformat(day)
    return f"{found:%A}, {found.day} {found:%B} {found.year}"


def short_day(day: str) -> str:
    """`22 Nov`."""
    found = date.fromisoformat(day)
    return f"{found.day} {found:%b}"


def success(row: dict[str, Any], of_calls: bool) -> str:
    """The share of calls (without those that say nothing of the model), or of jobs that have ended, that succeeded."""
    if of_calls:
        return percent(row["calls_succeeded"], row["calls_succeeded"] + row["calls_failed"])
    return percent(row["jobs_succeeded"], row["jobs_ended"])


def ago(moment: datetime) -> str:
    """`4 min ago`, in the largest unit that fits; `just now` also where another clock is ahead."""
    passed = int((datetime.now(UTC) - moment).total_seconds())
    for unit, length in {"d": 86_400, "h": 3600, "min": 60, "s": 1}.items():
        if passed >= length:
            return f"{passed // length} {unit} ago"
    return "just now"


def round_usd(nano: int) -> str:
    """An amount to a millionth of a dollar."""
    return usd(round(nano, -3))
