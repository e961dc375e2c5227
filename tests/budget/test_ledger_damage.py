"""Every script on keys that are not what the ledger wrote, and with amounts at the edges: refused before the first
write, or right to the nano-dollar. On a real server and on fakeredis."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis

from budget.errors import LedgerDown
from budget.ledger import Ledger
from budget.money import MAX_NANO
from budget.scopes import OPEN, WARM, reservation_key
from budget.settings import BudgetSettings
from db.models import CostBasis
from tests.budget.conftest import WIDE, counters, dump, hold, warm
from tests.budget.test_ledger_refusals import SPOILT, UNLIMITED, key_of, spoil

MakeLedger = Callable[..., Ledger]
Keys = tuple[str, ...]

# every way to end a reservation or prolong it, at 60 nano-USD or seconds
ENDS: dict[str, Callable[[Ledger, Keys], str]] = {
    "settle": lambda ledger, keys: ledger.settle("a1", keys, 60),
    "release": lambda ledger, keys: ledger.release("a1", keys),
    "expire": lambda ledger, keys: ledger.expire("a1", keys),
    "correct": lambda ledger, keys: ledger.correct("a1", keys, 60),
}
COSTS = {"settle": 60, "release": 0, "expire": 100, "correct": 60}
STATES = {"settle": "settled", "release": "released", "expire": "expired", "correct": "settled"}


def refused(client: redis.Redis, act: Callable[[], Any], match: str) -> None:
    """The ledger is down for it, and nothing was written, but that an expired one is asked about again in an hour."""
    before = dump(client)
    with pytest.raises(LedgerDown, match=match):
        act()
    after = dump(client)
    lists = [found.pop(OPEN, None) if found.get(OPEN, ("",))[0] == "zset" else None for found in (before, after)]
    assert after == before
    if lists[0] and lists[1]:
        was, is_now = dict(lists[0][1]), dict(lists[1][1])
        assert was.keys() == is_now.keys()
        assert all(abs(was[one] - is_now[one]) <= 10 for one in was)


# --- keys that are not what the ledger wrote


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(("place", "spoilt"), SPOILT)
def test_ending_on_a_spoilt_key_fails_before_the_first_write(
    make_ledger: MakeLedger, client: redis.Redis, how: str, place: str, spoilt: str
) -> None:
    ledger = make_ledger()
    held = hold(ledger, "a1")
    spoil(client, key_of(place, held.scope_keys, "a1"), spoilt)
    refused(client, lambda: ENDS[how](ledger, held.scope_keys), "SPOILT")


@pytest.mark.parametrize("first", ["settle", "expire"])
@pytest.mark.parametrize(("place", "spoilt"), SPOILT)
def test_correcting_on_a_spoilt_key_fails_before_the_first_write(
    make_ledger: MakeLedger, client: redis.Redis, first: str, place: str, spoilt: str
) -> None:
    ledger = make_ledger()
    held = hold(ledger, "a1")
    ENDS[first](ledger, held.scope_keys)
    spoil(client, key_of(place, held.scope_keys, "a1"), spoilt)
    refused(client, lambda: ledger.correct("a1", held.scope_keys, 1), "SPOILT")


@pytest.mark.parametrize("place", ["reservation", "open"])
@pytest.mark.parametrize("spoilt", ["string", "list"])
def test_extending_on_a_spoilt_key_fails_before_the_first_write(
    make_ledger: MakeLedger, client: redis.Redis, place: str, spoilt: str
) -> None:
    ledger = make_ledger()
    hold(ledger)
    spoil(client, {"open": OPEN, "reservation": reservation_key("a1")}[place], spoilt)
    refused(client, lambda: ledger.extend("a1", 900), "SPOILT")


@pytest.mark.parametrize("how", ["reserve", "extend", *ENDS])
@pytest.mark.parametrize("spoilt", ["string", "list"])
def test_a_spoilt_marker_opens_nothing(make_ledger: MakeLedger, client: redis.Redis, how: str, spoilt: str) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    spoil(client, WARM, spoilt)
    acts = {**ENDS, "reserve": lambda *_: hold(ledger, "a2"), "extend": lambda *_: ledger.extend("a1", 60)}
    try:
        refused(client, lambda: acts[how](ledger, held.scope_keys), "SPOILT")
    finally:
        client.delete(WARM)  # no new connection comes past it, not even the next test's


DRIFTED = [("reserved", "-5"), ("spent", "-5"), ("reserved", "99"), ("reserved", None), ("reserved", ""),
           ("spent", "1" * 18), ("reserved", "1" * 18)]  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(("field", "value"), DRIFTED)
@pytest.mark.parametrize("scope", range(4))
def test_ending_on_a_counter_that_drifted_is_refused(
    make_ledger: MakeLedger, client: redis.Redis, how: str, field: str, value: str | None, scope: int
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    ledger.settle("a2", hold(ledger, "a2", 5).scope_keys, 5)
    if value is None:
        client.hdel(held.scope_keys[scope], field)
    else:
        client.hset(held.scope_keys[scope], field, value)
    refused(client, lambda: ENDS[how](ledger, held.scope_keys), "SPOILT")


@pytest.mark.parametrize("scope", range(4))
def test_a_correction_that_would_make_a_counter_negative_is_refused(
    make_ledger: MakeLedger, client: redis.Redis, scope: int
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    ledger.expire("a1", held.scope_keys)
    client.hset(held.scope_keys[scope], "spent", "39")
    refused(client, lambda: ledger.correct("a1", held.scope_keys, 60), "SPOILT")
    refused(client, lambda: ledger.settle("a1", held.scope_keys, 60), "SPOILT")
    assert ledger.correct("a1", held.scope_keys, 61) == "settled"
    assert sorted(counters(client).values()) == [(0, 0), *[(61, 0)] * 3]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("missing", range(4))
@pytest.mark.parametrize("instead", [[], ["{paymaster}:user:2026-01-01:other"]])
def test_ending_without_all_scopes_that_were_reserved_is_refused(
    make_ledger: MakeLedger, client: redis.Redis, how: str, missing: int, instead: list[str]
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    given = (*held.scope_keys[:missing], *instead, *held.scope_keys[missing + 1 :])
    refused(client, lambda: ENDS[how](ledger, given), "the scopes are not those")


@pytest.mark.parametrize("how", ENDS)
def test_a_scope_that_was_not_reserved_is_not_charged(make_ledger: MakeLedger, client: redis.Redis, how: str) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    others = hold(ledger, "a2", 7, user_id="u", job_id="j").scope_keys[2:]
    ENDS[how](ledger, (*held.scope_keys, *others))
    assert [counters(client)[key] for key in others] == [(0, 7)] * 2


# --- amounts at the edges

INEXACT: list[Any] = [2**53, -1, "1e14", 1e14, 1.5, float(2**53), "-0", "+1", "٣"]


@pytest.mark.parametrize("amount", [0, 1, MAX_NANO])
@pytest.mark.parametrize("how", ENDS)
def test_edge_amounts_are_held_and_charged_to_the_nano_dollar(
    make_ledger: MakeLedger, client: redis.Redis, amount: int, how: str
) -> None:
    ledger = make_ledger(**UNLIMITED)
    held = hold(ledger, amount=amount, job_cap=MAX_NANO)
    assert set(counters(client).values()) == {(0, amount)}
    assert ENDS[how](ledger, held.scope_keys) == STATES[how]
    cost = amount if how == "expire" else COSTS[how]
    assert set(counters(client).values()) == {(cost, 0)}
    for actual in (amount, 0, MAX_NANO, 1):
        assert ledger.correct("a1", held.scope_keys, actual) == "settled"
        assert set(counters(client).values()) == {(actual, 0)}


@pytest.mark.parametrize("first", [None, *ENDS])
@pytest.mark.parametrize("amount", INEXACT)
def test_what_is_no_exact_amount_is_refused_by_every_script(
    make_ledger: MakeLedger, client: redis.Redis, first: str | None, amount: Any
) -> None:
    ledger = make_ledger(**UNLIMITED)
    held = hold(ledger)
    if first:
        ENDS[first](ledger, held.scope_keys)
    for act in (
        lambda: hold(ledger, amount=amount),
        lambda: hold(ledger, "a2", amount),
        lambda: ledger.settle("a1", held.scope_keys, amount),
        lambda: ledger.correct("a1", held.scope_keys, amount),
        lambda: ledger.extend("a1", amount),
    ):
        refused(client, act, "BADARG")


# --- what SQL says


@pytest.mark.parametrize("basis", CostBasis)
@pytest.mark.parametrize("first", [None, *ENDS])
def test_an_outcome_in_sql_ends_a_reservation_as_its_basis_says(
    make_ledger: MakeLedger, client: redis.Redis, basis: CostBasis, first: str | None
) -> None:
    how = dict(zip(("usage", "not_billed", "reservation", "by_hand"), ENDS, strict=True))[basis]
    left: list[dict[str, Any]] = []
    for conclude in (True, False):
        client.flushall()
        ledger = make_ledger()
        held = hold(ledger)
        if first:
            ENDS[first](ledger, held.scope_keys)
        if conclude:
            ledger.conclude("a1", held.scope_keys, basis, COSTS[how] - 1 if how == "correct" else COSTS[how])
        elif how == "correct":
            ledger.correct("a1", held.scope_keys, COSTS[how] - 1)
        else:
            ENDS[how](ledger, held.scope_keys)
        left.append({key: content for key, (kind, content, _) in dump(client).items() if kind == "hash"})
    assert left[0] == left[1]


# what stands after one end and another: the first outcome, but an expired one gives way, and a person is always right
AFTER = {
    "settle": {"settle": ("settled", 60), "release": ("settled", 60), "expire": ("settled", 60)},
    "release": {"settle": ("released", 0), "release": ("released", 0), "expire": ("released", 0)},
    "expire": {"settle": ("settled", 60), "release": ("released", 0), "expire": ("expired", 100)},
    "correct": {"settle": ("settled", 60), "release": ("settled", 60), "expire": ("settled", 60)},
}


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_what_stands_after_two_ends(make_ledger: MakeLedger, client: redis.Redis, first: str, second: str) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    ENDS[first](ledger, held.scope_keys)
    state, cost = AFTER[first].get(second, ("settled", 60))
    for _ in range(2):
        assert ENDS[second](ledger, held.scope_keys) == state
        assert set(counters(client).values()) == {(cost, 0)}
    assert client.exists(OPEN) == (state == "expired")


@pytest.mark.parametrize("limit", ["x", "1e3", "", "-1", "9" * 17])
@pytest.mark.parametrize("scope", ["daily", "monthly", "user"])
def test_a_limit_that_is_none_admits_nothing(
    make_ledger: MakeLedger, client: redis.Redis, scope: str, limit: str
) -> None:
    ledger = make_ledger()
    client.hset(WARM, scope, limit)
    refused(client, lambda: hold(ledger), "SPOILT")


@pytest.mark.parametrize("ours", [-1, 0, 1])
@pytest.mark.parametrize(("at", "day"), [(-0.5, "2026-11-27"), (0, "2026-11-28"), (0.5, "2026-11-28")])
def test_the_day_that_pays_changes_at_midnight_of_redis(
    monkeypatch: pytest.MonkeyPatch, ours: int, at: float, day: str
) -> None:
    midnight = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
    monkeypatch.setattr("time.time", lambda: midnight + at)
    monkeypatch.setattr("budget.ledger.time", SimpleNamespace(time=lambda: midnight + ours))
    fake = fakeredis.FakeRedis(decode_responses=True)
    warm(fake)
    assert hold(Ledger(fake, BudgetSettings(**WIDE))).day == day


def test_limits_are_not_given_to_the_counters_of_another_server(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    client.hset(WARM, "server", "another's")
    before = dump(client)
    ledger.take_limits({"daily": 7}, 1)
    assert dump(client) == before
