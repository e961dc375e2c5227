"""The ledger's two scripts: reserve, settle, release, and what a repetition does. On a real server and on
fakeredis."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.ledger import Ledger
from budget.money import MAX_NANO
from budget.scopes import OPEN, REBUILDING, TAG, WARM, reservation_key
from tests.budget.conftest import counters, dump, hold, usd

MakeLedger = Callable[..., Ledger]


def test_a_reservation_is_held_in_all_four_scopes(make_ledger: MakeLedger, client: redis.Redis) -> None:
    held = hold(make_ledger(), amount=70)
    day, month = held.day, held.month
    keys = (f"{TAG}:day:{day}", f"{TAG}:month:{month}", f"{TAG}:user:{day}:u1", f"{TAG}:job:j1")
    assert held.scope_keys == keys
    assert counters(client) == dict.fromkeys(keys, (0, 70))
    assert (held.attempt_id, held.amount) == ("a1", 70)
    assert client.hgetall(reservation_key("a1")) == {"amount": "70", "state": "open", "scopes": "\n".join(keys)}


@pytest.mark.parametrize(
    ("user_id", "job_cap", "scopes"), [(None, None, 2), ("u1", None, 3), (None, 10**9, 3), ("u1", 10**9, 4)]
)
def test_only_scopes_that_apply_are_counted(
    make_ledger: MakeLedger, client: redis.Redis, user_id: str | None, job_cap: int | None, scopes: int
) -> None:
    hold(make_ledger(), user_id=user_id, job_cap=job_cap)
    assert len(counters(client)) == scopes
    assert set(counters(client).values()) == {(0, 100)}


def test_users_and_jobs_are_counted_apart(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    held = [hold(ledger, f"a{n}", 10 + n, user_id=f"u{n}", job_id=f"j{n}") for n in range(3)]
    found = counters(client)
    for n, reservation in enumerate(held):
        assert [found[key] for key in reservation.scope_keys] == [(0, 33), (0, 33), (0, 10 + n), (0, 10 + n)]


@pytest.mark.parametrize("actual", [0, 1, 99, 100, 101, 10**12])
def test_settling_turns_the_reservation_into_what_the_call_cost(
    make_ledger: MakeLedger, client: redis.Redis, actual: int
) -> None:
    ledger = make_ledger()
    hold(ledger, "other", 7)
    held = hold(ledger, amount=100)
    ledger.settle("a1", held.scope_keys, actual)
    assert set(counters(client).values()) == {(actual, 7)}
    assert client.zrange(OPEN, 0, -1) == [reservation_key("other")]
    assert client.hget(reservation_key("a1"), "charged") == str(actual)


def test_released_money_can_be_reserved_again(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(daily_budget_usd=usd(100))
    held = hold(ledger, "a1", 100)
    with pytest.raises(BudgetExceeded):
        hold(ledger, "a2", 1)
    ledger.settle("a1", held.scope_keys, 0)
    hold(ledger, "a2", 100)


def test_reserving_again_by_the_same_attempt_writes_nothing(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    first = hold(ledger)
    before = dump(client)
    assert hold(ledger) == first
    after = dump(client)
    assert before.pop(OPEN)[0] == after.pop(OPEN)[0] == "zset"  # its lease is new
    assert after == before


def test_a_jobs_counter_is_restored_only_if_it_is_gone(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    held = hold(ledger, "a1", 50)
    ledger.restore_job("j1", 40)
    assert counters(client)[held.scope_keys[3]] == (0, 50)
    ledger.settle("a1", held.scope_keys, 40)
    client.delete(held.scope_keys[3])
    ledger.restore_job("j1", 40)
    assert counters(client)[held.scope_keys[3]] == (40, 0)
    assert client.ttl(held.scope_keys[3]) > 86_400


def test_a_scope_that_is_given_twice_pays_once(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    day, month, user, job = hold(ledger, amount=100).scope_keys
    with pytest.raises(LedgerDown, match="BADARG"):
        ledger.settle("a1", [day, day, user, job], 60)
    ledger.settle("a1", [day, day, month, user, job], 60)
    assert set(counters(client).values()) == {(60, 0)}


def test_reserving_again_makes_the_lease_new(make_ledger: MakeLedger) -> None:
    ledger = make_ledger()
    hold(ledger, lease_s=-1)
    assert ledger.overdue()
    hold(ledger, lease_s=60)
    assert ledger.overdue() == [], "the call of whoever asked again is still to come"


def test_reserving_again_is_granted_even_if_the_budget_is_full_by_now(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(daily_budget_usd=usd(100))
    first = hold(ledger, amount=100)
    assert hold(ledger, amount=100) == first


def test_settling_twice_charges_once_and_the_first_settlement_stands(
    make_ledger: MakeLedger, client: redis.Redis
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    ledger.settle("a1", held.scope_keys, 60)
    before = dump(client)
    ledger.settle("a1", held.scope_keys, 60)
    ledger.settle("a1", held.scope_keys, 99)
    ledger.settle("a1", held.scope_keys, 0)
    assert dump(client) == before


def test_settling_an_unknown_reservation_writes_nothing(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    before = dump(client)
    ledger.settle("nobody", held.scope_keys, 60)
    assert dump(client) == before


def test_a_settled_attempt_cannot_reserve_again(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    ledger.settle("a1", hold(ledger).scope_keys, 60)
    before = dump(client)
    with pytest.raises(LedgerDown, match="is over already"):
        hold(ledger)
    assert dump(client) == before


def test_a_cold_ledger_gives_nothing_and_writes_nothing(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    client.delete(WARM)
    before = dump(client)
    for act in (
        lambda: hold(ledger),
        lambda: hold(ledger, "a2"),
        lambda: ledger.settle("a1", held.scope_keys, 5),
        lambda: ledger.settle("nobody", held.scope_keys, 5),
    ):
        with pytest.raises(LedgerCold):
            act()
    assert dump(client) == before


def test_every_key_goes_by_itself_or_stands_on_the_list(make_ledger: MakeLedger, client: redis.Redis) -> None:
    kept_for_ever = {WARM, OPEN}
    ledger = make_ledger()
    ledger.settle("a1", hold(ledger).scope_keys, 60)
    hold(ledger, "a2", user_id="u2", job_id="j2")
    found = dump(client)
    assert {key for key, (_, _, goes) in found.items() if not goes} == kept_for_ever
    assert [key for key in {*found, REBUILDING} if not key.startswith("{paymaster}:")] == []


def test_an_open_reservation_is_kept_for_as_long_as_a_counter_may_hold_it(
    make_ledger: MakeLedger, client: redis.Redis
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    day, month, user, _ = (int(client.ttl(key)) for key in held.scope_keys)
    assert abs(int(client.ttl(reservation_key("a1"))) - month) <= 1
    assert 3 * 86_400 < day <= month
    assert abs(day - user) <= 1
    ledger.settle("a1", held.scope_keys, 1)
    assert 86_400 - int(client.ttl(reservation_key("a1"))) <= 1


def test_a_counter_that_is_gone_is_not_made_again_by_a_late_settle(
    make_ledger: MakeLedger, client: redis.Redis
) -> None:
    ledger = make_ledger()
    held = hold(ledger)
    client.delete(held.scope_keys[0])
    ledger.settle("a1", held.scope_keys, 60)
    assert counters(client) == dict.fromkeys(held.scope_keys[1:], (60, 0))


def test_the_lease_decides_when_a_reservation_is_overdue(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    hold(ledger, "alive", lease_s=60)
    dead = hold(ledger, "dead", lease_s=-1)
    assert ledger.overdue() == [("dead", dead.scope_keys)]
    ledger.settle("dead", dead.scope_keys, 0)
    assert ledger.overdue() == []


def test_redis_says_which_day_pays(
    make_ledger: MakeLedger, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger()
    today = hold(ledger, "a1").scope_keys
    for attempt, days in (("a2", -40), ("a3", 40)):
        wrong_clock = SimpleNamespace(time=lambda days=days: time.time() + days * 86_400)
        monkeypatch.setattr("budget.ledger.time", wrong_clock)
        assert hold(ledger, attempt).scope_keys == today
    assert set(counters(client).values()) == {(0, 300)}


def test_usage_says_how_day_and_month_stand(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(daily_budget_usd="0.000001", monthly_budget_usd="unlimited")
    ledger.settle("a1", hold(ledger, amount=300).scope_keys, 200)
    hold(ledger, "a2", 100)
    day, month = ledger.usage()
    assert (day.name, day.limit, day.spent, day.reserved, day.left) == ("daily", 1000, 200, 100, 700)
    assert (month.name, month.limit, month.spent, month.reserved, month.left) == ("monthly", None, 200, 100, None)
    assert day.resets_at is not None and day.resets_at % 86_400 == 0


def test_nothing_is_left_of_an_overspent_budget_and_not_less(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(daily_budget_usd=usd(100))
    ledger.settle("a1", hold(ledger).scope_keys, 500)
    assert ledger.usage()[0].left == 0


class Lossy:
    """A script whose reply is lost a few times, after it was run."""

    def __init__(self, script: Any, losses: int, error: Exception) -> None:
        self.script, self.losses, self.error, self.runs = script, losses, error, 0

    def __call__(self, **arguments: Any) -> Any:
        self.runs += 1
        reply = self.script(**arguments)
        if self.runs <= self.losses:
            raise self.error
        return reply


LOST = [redis.TimeoutError("late"), redis.ConnectionError("gone")]


@pytest.mark.parametrize("error", LOST)
def test_a_lost_reply_is_asked_for_once_more_and_counted_once(
    make_ledger: MakeLedger, client: redis.Redis, error: Exception
) -> None:
    ledger = make_ledger()
    ledger._reserve = Lossy(ledger._reserve, 1, error)
    ledger._close["settle"] = Lossy(ledger._close["settle"], 1, error)
    held = hold(ledger)
    assert set(counters(client).values()) == {(0, 100)}
    ledger.settle("a1", held.scope_keys, 60)
    assert set(counters(client).values()) == {(60, 0)}


@pytest.mark.parametrize("error", [*LOST, redis.ResponseError("OOM command not allowed")])
def test_a_ledger_without_an_answer_is_down(make_ledger: MakeLedger, error: Exception) -> None:
    ledger = make_ledger()
    lossy = Lossy(ledger._reserve, 9, error)
    ledger._reserve = lossy
    with pytest.raises(LedgerDown, match=str(error)):
        hold(ledger)
    assert lossy.runs == (1 if isinstance(error, redis.ResponseError) else 2)


def test_a_server_that_is_gone_is_down_for_every_method() -> None:
    from budget.connection import connect
    from budget.settings import BudgetSettings
    from cli.stack import free_port

    ledger = Ledger(connect(f"redis://127.0.0.1:{free_port()}/0"), BudgetSettings())
    for act in (lambda: hold(ledger), lambda: ledger.settle("a1", ["k"], 1), ledger.overdue, ledger.usage):
        with pytest.raises(LedgerDown):
            act()


def test_the_largest_amount_is_held_exactly(make_ledger: MakeLedger, client: redis.Redis) -> None:
    limits = ("daily_budget_usd", "monthly_budget_usd", "max_cost_per_user_daily_usd")
    ledger = make_ledger(**dict.fromkeys(limits, "unlimited"))
    held = hold(ledger, amount=MAX_NANO, job_cap=None)
    assert set(counters(client).values()) == {(0, MAX_NANO)}
    ledger.settle("a1", held.scope_keys, MAX_NANO)
    assert set(counters(client).values()) == {(MAX_NANO, 0)}
