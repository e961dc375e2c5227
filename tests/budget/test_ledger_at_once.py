"""Many at once on the real server: exactly as many get through as there is money for."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from budget.errors import BudgetExceeded
from budget.ledger import Ledger
from budget.settings import BudgetSettings
from tests.budget.conftest import WIDE, counters, hold, usd, warm

THREADS = 100
PRICE = 7


def all_at_once(act: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """`act(n)` on so many threads, which start together."""
    gate = threading.Barrier(threads)

    def run(number: int) -> Any:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def ledger_of(client: redis.Redis, **limits: Any) -> Ledger:
    warm(client)
    return Ledger(client, BudgetSettings(**{**WIDE, **limits}))


@pytest.mark.parametrize("scope", ["daily_budget_usd", "monthly_budget_usd", "max_cost_per_user_daily_usd", "job"])
@pytest.mark.parametrize("fit", [0, 37])
def test_exactly_as_many_of_100_threads_get_through_as_fit(real_client: redis.Redis, scope: str, fit: int) -> None:
    limit = fit * PRICE + PRICE - 1
    ledger = ledger_of(real_client, **({} if scope == "job" else {scope: usd(limit)}))
    cap = limit if scope == "job" else 10**12

    def reserve(number: int) -> bool:
        try:
            hold(ledger, f"a{number}", PRICE, job_cap=cap)
        except BudgetExceeded:
            return False
        return True

    assert sum(all_at_once(reserve)) == fit
    assert set(counters(real_client).values()) == ({(0, fit * PRICE)} if fit else set())


def test_spending_at_once_never_passes_the_limit_while_it_is_settled(real_client: redis.Redis) -> None:
    ledger = ledger_of(real_client, daily_budget_usd=usd(20 * PRICE))

    def spend(number: int) -> int:
        done = 0
        for turn in range(5):
            attempt = f"a{number}-{turn}"
            try:
                held = hold(ledger, attempt, PRICE)
            except BudgetExceeded:
                continue
            cost = (number + turn) % (PRICE + 1)
            ledger.settle(attempt, held.scope_keys, cost)
            done += cost
        return done

    paid = sum(all_at_once(spend))
    assert paid <= 20 * PRICE
    assert set(counters(real_client).values()) == {(paid, 0)}


def test_one_attempt_that_comes_20_times_at_once_is_held_and_charged_once(real_client: redis.Redis) -> None:
    ledger = ledger_of(real_client)
    held = all_at_once(lambda _: hold(ledger, "the same", PRICE), 20)
    assert set(counters(real_client).values()) == {(0, PRICE)}
    all_at_once(lambda number: ledger.settle("the same", held[0].scope_keys, number % 2 + 3), 20)
    assert set(counters(real_client).values()) <= {(3, 0), (4, 0)}
    assert len(set(counters(real_client).values())) == 1
