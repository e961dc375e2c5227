"""What the ledger refuses, with which numbers, and that a refusal leaves no trace. On a real server and on
fakeredis."""

import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
import redis

from budget.errors import BudgetExceeded, LedgerDown
from budget.ledger import Ledger
from budget.money import MAX_NANO
from budget.periods import periods_at
from budget.scopes import OPEN, reservation_key
from tests.budget.conftest import dump, hold, usd

MakeLedger = Callable[..., Ledger]

SCOPES = {
    "daily": {"daily_budget_usd": usd(200)},
    "monthly": {"monthly_budget_usd": usd(200)},
    "user": {"max_cost_per_user_daily_usd": usd(200)},
    "job": {},
}


def tight(make_ledger: MakeLedger, scope: str) -> tuple[Ledger, int]:
    """A ledger where one scope has a limit of 200, 100 spent and 50 reserved; and the job's cap to use."""
    ledger = make_ledger(**SCOPES[scope])
    cap = 200 if scope == "job" else 10**12
    ledger.settle("a1", hold(ledger, "a1", 110, job_cap=cap).scope_keys, 100)
    hold(ledger, "a2", 50, job_cap=cap)
    return ledger, cap


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_without_room_refuses_with_its_numbers_and_nothing_is_written(
    make_ledger: MakeLedger, client: redis.Redis, scope: str
) -> None:
    ledger, cap = tight(make_ledger, scope)
    before = dump(client)
    with pytest.raises(BudgetExceeded) as refused:
        hold(ledger, "a3", 51, job_cap=cap)
    found = refused.value
    assert (found.scope, found.limit, found.spent, found.reserved, found.needed) == (scope, 200, 100, 50, 51)
    today = periods_at(time.time(), UTC)
    ends = {"daily": today.day_end, "user": today.day_end, "monthly": today.month_end, "job": None}
    assert found.resets_at == ends[scope]
    assert not found.never_fits
    assert dump(client) == before


@pytest.mark.parametrize("scope", SCOPES)
def test_the_last_nano_dollar_can_be_reserved(make_ledger: MakeLedger, scope: str) -> None:
    ledger, cap = tight(make_ledger, scope)
    hold(ledger, "a3", 50, job_cap=cap)
    with pytest.raises(BudgetExceeded):
        hold(ledger, "a4", 1, job_cap=cap)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_limit_of_zero_blocks_everything(make_ledger: MakeLedger, client: redis.Redis, scope: str) -> None:
    ledger = make_ledger(**dict.fromkeys(SCOPES[scope], "0"))
    before = dump(client)
    for amount in (1, 0):
        with pytest.raises(BudgetExceeded, match="is stopped by") as refused:
            hold(ledger, amount=amount, job_cap=0 if scope == "job" else 10**12)
        assert (refused.value.scope, refused.value.limit, refused.value.code) == (scope, 0, "budget")
    assert dump(client) == before


def test_the_first_scope_without_room_is_named(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(monthly_budget_usd=usd(5), max_cost_per_user_daily_usd=usd(1))
    with pytest.raises(BudgetExceeded, match="the monthly budget"):
        hold(ledger, amount=6, job_cap=1)
    with pytest.raises(BudgetExceeded, match="the user's daily budget"):
        hold(ledger, amount=3, job_cap=1)
    with pytest.raises(BudgetExceeded, match="the job's cap"):
        hold(ledger, amount=1, job_cap=0)


def test_another_users_spending_takes_no_room(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(max_cost_per_user_daily_usd=usd(100))
    hold(ledger, "a1", 100, user_id="u1")
    hold(ledger, "a2", 100, user_id="u2", job_id="j2")
    hold(ledger, "a3", 100, user_id=None, job_id="j3")


def test_a_lowered_limit_takes_effect_at_once_and_evicts_nothing(make_ledger: MakeLedger, client: redis.Redis) -> None:
    held = hold(make_ledger(), "a1", 100)
    lowered = make_ledger(daily_budget_usd=usd(50))
    before = dump(client)
    with pytest.raises(BudgetExceeded) as refused:
        hold(lowered, "a2", 1)
    assert (refused.value.limit, refused.value.reserved) == (50, 100)
    assert dump(client) == before
    lowered.settle("a1", held.scope_keys, 100)
    assert lowered.usage()[0].spent == 100


UNLIMITED = dict.fromkeys(("daily_budget_usd", "monthly_budget_usd", "max_cost_per_user_daily_usd"), "unlimited")


@pytest.mark.parametrize("amount", [0, 1, 10**15, MAX_NANO])
def test_an_unlimited_budget_refuses_no_exact_amount(make_ledger: MakeLedger, amount: int) -> None:
    assert hold(make_ledger(**UNLIMITED), amount=amount, job_cap=None).amount == amount


def test_even_an_unlimited_budget_never_leaves_what_can_be_counted_exactly(
    make_ledger: MakeLedger, client: redis.Redis
) -> None:
    ledger = make_ledger(**UNLIMITED)
    hold(ledger, "a1", MAX_NANO - 5, job_cap=None)
    hold(ledger, "a2", 5, job_cap=None)
    before = dump(client)
    with pytest.raises(BudgetExceeded):
        hold(ledger, "a3", 1, job_cap=None)
    assert dump(client) == before


@pytest.mark.parametrize("amount", [2**53, 2**63, 10**30, -1, 1.5, 1e14, "1e3", "0x10", "", " 1", "abc", "1\n"])
def test_what_is_no_exact_amount_is_neither_reserved_nor_settled(
    make_ledger: MakeLedger, client: redis.Redis, amount: Any
) -> None:
    ledger = make_ledger(**UNLIMITED)
    held = hold(ledger, "a1")
    before = dump(client)
    with pytest.raises(LedgerDown, match="BADARG"):
        hold(ledger, "a2", amount)
    with pytest.raises(LedgerDown, match="BADARG"):
        ledger.settle("a1", held.scope_keys, amount)
    assert dump(client) == before


def spoil(client: redis.Redis, key: str, how: str) -> None:
    if how == "hash":
        client.delete(key)
        client.hset(key, "spent", "1")
    elif how == "string":
        client.set(key, "x", ex=1000)
    elif how == "list":
        client.delete(key)
        client.rpush(key, "x")
    else:  # a counter that is no integer
        client.hset(key, "reserved", how)


SPOILT = [
    *((place, how) for place in ("reservation", "day", "month", "user", "job") for how in ("string", "list")),
    ("open", "string"), ("open", "hash"), ("open", "list"),
    *((place, how) for place in ("day", "month", "user", "job") for how in ("1.5", "1e3", "x")),
]  # fmt: skip


def key_of(place: str, scope_keys: tuple[str, ...], attempt: str) -> str:
    keys = dict(zip(("day", "month", "user", "job"), scope_keys, strict=True))
    return {**keys, "open": OPEN, "reservation": reservation_key(attempt)}[place]


@pytest.mark.parametrize(("place", "how"), SPOILT)
def test_reserving_on_a_spoilt_key_fails_before_the_first_write(
    make_ledger: MakeLedger, client: redis.Redis, place: str, how: str
) -> None:
    ledger = make_ledger()
    held = hold(ledger, "a1")
    spoil(client, key_of(place, held.scope_keys, "a2"), how)
    before = dump(client)
    with pytest.raises(LedgerDown):
        hold(ledger, "a2", 5)
    assert dump(client) == before


@pytest.mark.parametrize(("place", "how"), SPOILT)
def test_settling_on_a_spoilt_key_fails_before_the_first_write(
    make_ledger: MakeLedger, client: redis.Redis, place: str, how: str
) -> None:
    ledger = make_ledger()
    held = hold(ledger, "a1")
    spoil(client, key_of(place, held.scope_keys, "a1"), how)
    before = dump(client)
    with pytest.raises(LedgerDown):
        ledger.settle("a1", held.scope_keys, 60)
    assert dump(client) == before


@pytest.mark.parametrize(
    ("spent", "limit", "words"),
    [
        (0, 100, ["can never fit in the daily budget", "(limit $0.0000001, spent $0.00, reserved $0.00)"]),
        (
            150,
            200,
            ["of up to $0.00000015 does not fit in what is left of the daily budget", "spent $0.00000015, ", "UTC"],
        ),
    ],
)
def test_the_sentence_says_whether_waiting_helps(
    make_ledger: MakeLedger, spent: int, limit: int, words: list[str]
) -> None:
    ledger = make_ledger(daily_budget_usd=usd(limit))
    if spent:
        ledger.settle("a0", hold(ledger, "a0", spent).scope_keys, spent)
    with pytest.raises(BudgetExceeded) as refused:
        hold(ledger, "a1", 150)
    for word in words:
        assert word in str(refused.value)


def test_a_jobs_own_budget_never_resets(make_ledger: MakeLedger) -> None:
    with pytest.raises(BudgetExceeded) as refused:
        hold(make_ledger(), amount=11, job_cap=10)
    assert "resets" not in str(refused.value)
