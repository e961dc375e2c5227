"""Budgets from the environment, and what is said of a value that cannot be one."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from budget.money import MAX_NANO
from budget.settings import BudgetSettings
from db.environment import SettingsError, read_settings
from db.once import once_per_environment

LIMITS = {
    "DAILY_BUDGET_USD": 50 * 10**9,
    "MONTHLY_BUDGET_USD": 1000 * 10**9,
    "MAX_COST_PER_USER_DAILY_USD": 5 * 10**9,
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*LIMITS, "BUDGET_TIMEZONE", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    once_per_environment.forget_all()
    yield
    once_per_environment.forget_all()


def read(name: str) -> int | None:
    value: int | None = getattr(read_settings(BudgetSettings), name.lower())
    return value


@pytest.mark.parametrize(("name", "nano"), LIMITS.items())
def test_an_unset_limit_is_the_customers_default(name: str, nano: int) -> None:
    assert read(name) == nano


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0), ("0.00", 0), ("50", 50 * 10**9), (" 12.5 ", 12_500_000_000), ("0.000000001", 1),
        ("9007199.254740991", MAX_NANO), ("1e2", 100 * 10**9), ("unlimited", None), ("Unlimited", None),
        (" UNLIMITED ", None),
    ],
)  # fmt: skip
def test_a_limit_is_read_exactly(name: str, text: str, nano: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    assert read(name) == nano


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    "text",
    ["", "-1", "-0.01", "nan", "inf", "-inf", "abc", "none", "$50", "1,000", "9007199.254740992", "1e20",
     "0.0000000001", "5.0000000001"],
)  # fmt: skip
def test_a_bad_limit_names_its_variable_and_says_what_would_be_right(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as refused:
        read_settings(BudgetSettings)
    sentence = str(refused.value)
    assert sentence.startswith(f"{name}: ")
    assert repr(text) in sentence
    assert "'unlimited'" in sentence and "9007199" in sentence and "nine decimals" in sentence


@pytest.mark.parametrize("text", ["1e999999", "1.00000000000000000000000000000000001"])
def test_an_amount_beyond_decimals_own_precision_is_refused_like_any_other(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_BUDGET_USD", text)
    with pytest.raises(SettingsError, match=r"^DAILY_BUDGET_USD: "):
        read_settings(BudgetSettings)


@pytest.mark.parametrize(
    ("text", "offset_h"), [("UTC", 0), ("Europe/Berlin", 1), ("America/Los_Angeles", -8), ("Asia/Kolkata", 5.5)]
)
def test_the_zone_is_an_iana_name(text: str, offset_h: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_TIMEZONE", text)
    offset = datetime(2026, 1, 1, tzinfo=read_settings(BudgetSettings).budget_timezone).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == offset_h * 3600


def test_the_zone_is_utc_unless_set() -> None:
    assert read_settings(BudgetSettings).budget_timezone == ZoneInfo("UTC")


@pytest.mark.parametrize(
    "text", ["", "Berlin", "Europe", "Mars/Base", "../etc/passwd", "/etc/passwd", "+02:00", "x" * 300]
)
def test_a_bad_zone_names_its_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_TIMEZONE", text)
    with pytest.raises(SettingsError, match=r"^BUDGET_TIMEZONE: .*is no IANA time zone; give one such as"):
        read_settings(BudgetSettings)


def test_settings_are_read_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_settings(BudgetSettings)
    monkeypatch.setenv("DAILY_BUDGET_USD", "1")
    assert read_settings(BudgetSettings) is first
    once_per_environment.forget_all()
    assert read("DAILY_BUDGET_USD") == 10**9


@pytest.mark.parametrize("text", ["0.000001", "0.8", " 1 "])
def test_a_share_is_read_exactly(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COST_ALERT_THRESHOLD", text)
    assert read_settings(BudgetSettings).cost_alert_threshold == Decimal(text.strip())


@pytest.mark.parametrize("text", ["0", "-0.5", "1.01", "80", "80%", "", "nan", "inf"])
def test_what_is_no_share_names_its_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COST_ALERT_THRESHOLD", text)
    with pytest.raises(SettingsError, match=r"^COST_ALERT_THRESHOLD: .*is no share; give a number above 0 and up to 1"):
        read_settings(BudgetSettings)


@pytest.mark.parametrize("url", ["sentinel://a:26379/0", "redis.example:6379", "", "http://x"])
def test_a_url_of_something_else_than_one_redis_is_refused_without_being_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match=r"REDIS_URL: is no URL of one Redis; give redis://") as refused:
        read_settings(BudgetSettings)
    assert not url or url not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://u:p@h:1/2", "unix:///run/redis.sock"])
def test_urls_of_one_redis_are_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert read_settings(BudgetSettings).redis_url == url
