"""When a budget raises an alert, which one it is, and what it says."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from budget.alerts import crossed, refused, threshold_text
from budget.errors import BudgetExceeded
from budget.ledger import ScopeUse
from budget.money import usd_to_nano
from budget.periods import periods_at

SHARES = (Decimal("0.8"), Decimal(1))
BERLIN = ZoneInfo("Europe/Berlin")


def use(spent: str, limit: str | None = "50", *, name: str = "daily", reserved: str = "0", **more: Any) -> ScopeUse:
    resets = more.get("resets_at", int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()))
    return ScopeUse(
        name, None if limit is None else usd_to_nano(limit), usd_to_nano(spent), usd_to_nano(reserved), resets
    )


def thresholds_of(*args: Any, **options: Any) -> list[str]:
    return [notice.threshold for notice in crossed(use(*args, **options), SHARES, UTC)]


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ("0", []), ("39.999999999", []), ("40", ["0.8"]), ("49.999999999", ["0.8"]), ("50", ["0.8", "1"]),
        ("51", ["0.8", "1"]),
    ],
)  # fmt: skip
def test_a_threshold_is_crossed_to_the_nano_dollar(spent: str, expected: list[str]) -> None:
    assert thresholds_of(spent) == expected


def test_what_is_only_reserved_is_not_used() -> None:
    assert thresholds_of("10", reserved="40") == []


@pytest.mark.parametrize("limit", ["0", None])
def test_a_stop_and_no_limit_raise_nothing(limit: str | None) -> None:
    assert thresholds_of("10", limit) == []


def test_thresholds_are_written_in_one_way() -> None:
    assert [threshold_text(Decimal(text)) for text in ("0.80", "1.0", "1", ".5", "8E-1")] == [
        "0.8",
        "1",
        "1",
        "0.5",
        "0.8",
    ]


def test_the_sentence_says_which_scope_how_much_until_when_and_what_to_do() -> None:
    (notice,) = crossed(use("41.5"), SHARES, UTC)
    assert notice.key == ("budget", "daily", "2026-11-22", "0.8")
    assert notice.message.startswith("The daily budget is 83 % used: $41.50 of $50.00 is spent. It starts anew at ")
    assert "2026-11-23 00:00 UTC" in notice.message
    assert "`paymaster budget`" in notice.message and "`paymaster budget set daily USD`" in notice.message


def test_almost_all_is_not_told_as_all() -> None:
    (notice,) = crossed(use("49.9999"), SHARES, UTC)
    assert "is 99 % used" in notice.message


def test_a_user_is_named_in_that_users_own_alert() -> None:
    (notice,) = crossed(use("4", "5", name="user"), SHARES, UTC, "42")
    assert (notice.subject, notice.period) == ("user:42", "2026-11-22")
    assert notice.message.startswith("The daily budget of user 42 is 80 % used")
    assert "`paymaster budget --user 42`" in notice.message


@pytest.mark.parametrize(
    ("moment", "day", "month"),
    [
        (datetime(2026, 11, 22, 22, 59, 59, tzinfo=UTC), "2026-11-22", "2026-11"),
        (datetime(2026, 11, 22, 23, 0, 0, tzinfo=UTC), "2026-11-23", "2026-11"),
        (datetime(2026, 11, 30, 23, 0, 0, tzinfo=UTC), "2026-12-01", "2026-12"),
        (datetime(2026, 12, 31, 23, 30, 0, tzinfo=UTC), "2027-01-01", "2027-01"),
        (datetime(2026, 10, 25, 12, 0, 0, tzinfo=UTC), "2026-10-25", "2026-10"),
        (datetime(2026, 3, 28, 23, 0, 0, tzinfo=UTC), "2026-03-29", "2026-03"),
    ],
)
def test_the_period_is_that_of_the_counter_in_the_budgets_zone(moment: datetime, day: str, month: str) -> None:
    periods = periods_at(moment.timestamp(), BERLIN)
    (daily,) = crossed(use("45", resets_at=periods.day_end), SHARES, BERLIN)
    (monthly,) = crossed(use("45", name="monthly", resets_at=periods.month_end), SHARES, BERLIN)
    assert (daily.period, monthly.period) == (day, month)


def refusal(
    spent: str, needed: str, limit: str = "50", *, scope: str = "daily", reserved: str = "0", **more: Any
) -> Any:
    exceeded = BudgetExceeded(
        scope, usd_to_nano(limit), usd_to_nano(spent), usd_to_nano(reserved), usd_to_nano(needed),
        more.get("resets_at", int(datetime(2026, 11, 23, tzinfo=UTC).timestamp())),
    )  # fmt: skip
    return refused(exceeded, UTC, more.get("user_id", "42"))


def test_a_call_without_room_in_what_is_left_shows_that_the_budget_is_used_up() -> None:
    notice = refusal("49.99", "0.02")
    assert notice.key == ("budget", "daily", "2026-11-22", "1")
    assert notice.message.startswith(
        "The daily budget is used up, a call of up to $0.02 found no room: $49.99 of $50.00 is spent. "
    )
    assert "42" not in notice.message
    assert refusal("4.99", "0.02", "5", scope="user").subject == "user:42"


@pytest.mark.parametrize(
    ("spent", "needed", "more"),
    [
        ("49.99", "0.01", {"reserved": "5"}),  # others' reservations are to blame
        ("0", "51", {}),  # it never fits
        ("49.99", "51", {}),
        ("0", "1", {"limit": "0"}),  # a stop
        ("0.14", "0.02", {"limit": "0.15", "scope": "job", "resets_at": None}),
    ],
)
def test_other_refusals_show_nothing(spent: str, needed: str, more: dict[str, Any]) -> None:
    assert refusal(spent, needed, **more) is None
