"""400 threads in 8 processes against room for exactly ten calls, a hundred times: ten get through, and no limit is
passed by a nano-dollar. The tight scope and the place of its limit change from round to round; nothing is flushed."""

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from budget.connection import connect
from budget.errors import BudgetExceeded
from budget.ledger import Ledger
from budget.settings import BudgetSettings
from tests.budget.conftest import hold, usd, warm

pytestmark = pytest.mark.xdist_group("overshoot")

PROCESSES, THREADS = 8, 50
ROUNDS = 100
FIT, PRICE = 10, 7
NAMES = {"daily": "daily_budget_usd", "monthly": "monthly_budget_usd", "user": "max_cost_per_user_daily_usd"}
TIGHT = (*NAMES, "job")


@dataclass(frozen=True)
class Round:
    """What all callers of a round do: reserve once each, with one scope tight. `attempts` is how many different
    attempts there are: with half as many as callers, each comes from two processes."""

    number: int
    tight: str
    limit: int
    live: bool
    attempts: int
    start_at: float = 0.0

    @property
    def calls(self) -> dict[str, Any]:
        cap = self.limit if self.tight == "job" else None
        return {"job_id": f"j{self.number}", "user_id": f"u{self.number}", "job_cap": cap, "lease_s": 60}

    @property
    def settings(self) -> BudgetSettings:
        here = self.tight != "job" and not self.live
        given = {NAMES[self.tight]: usd(self.limit)} if here else {}
        return BudgetSettings(**{**dict.fromkeys(NAMES.values(), "unlimited"), "budget_timezone": "UTC"} | given)


def spend(pipe: Connection, url: str, make_ledger: type[Ledger], first: int) -> None:
    """A process of its own: for each round, what its threads were answered."""
    ledger = make_ledger(connect(url), BudgetSettings())
    with ThreadPoolExecutor(THREADS) as pool:
        while (plan := pipe.recv()) is not None:
            ledger.settings = plan.settings
            gate = threading.Barrier(THREADS)

            def reserve(number: int, plan: Round = plan, gate: threading.Barrier = gate) -> tuple[str, str]:
                attempt = f"r{plan.number}-{(first + number) % plan.attempts}"
                gate.wait()
                time.sleep(max(0.0, plan.start_at - time.time()))
                try:
                    hold(ledger, attempt, PRICE, **plan.calls)
                except BudgetExceeded as over:
                    return attempt, over.scope
                except Exception as error:
                    return attempt, repr(error)
                return attempt, "reserved"

            pipe.send(list(pool.map(reserve, range(THREADS))))


@contextmanager
def crowd(url: str, make_ledger: type[Ledger] = Ledger) -> Iterator[list[Connection]]:
    """The processes, ended whatever happens. What they need is imported once, by the process that forks them."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([__name__, make_ledger.__module__])
    pipes, processes = [], []
    try:
        for number in range(PROCESSES):
            mine, its = forked.Pipe()
            arguments = (its, url, make_ledger, number * THREADS)
            processes.append(forked.Process(target=spend, args=arguments, daemon=True))
            processes[-1].start()
            its.close()
            pipes.append(mine)
        yield pipes
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(5)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()


def standing(client: redis.Redis, key: str) -> int:
    """Spent and reserved together."""
    amounts: Any = client.hmget(key, ["spent", "reserved"])
    return sum(int(amount or 0) for amount in amounts)


def check_a_round(client: redis.Redis, pipes: list[Connection], number: int) -> int:
    """One round; `AssertionError` unless exactly those got through for whom there was room. Returns how many callers
    there were."""
    tight = TIGHT[number % len(TIGHT)]
    ledger = Ledger(client, BudgetSettings(budget_timezone="UTC"))
    now = time.gmtime()
    day, month = time.strftime("%Y-%m-%d", now), time.strftime("%Y-%m", now)
    key = {"daily": f"day:{day}", "monthly": f"month:{month}", "user": f"user:{day}:u{number}", "job": f"job:j{number}"}
    of_scope = "{paymaster}:" + key[tight]
    before = standing(client, of_scope)
    limit = before + FIT * PRICE + PRICE - 1
    live = tight != "job" and number // len(TIGHT) % 2 == 1
    callers = PROCESSES * THREADS
    plan = Round(number, tight, limit, live, callers // 2 if number % 5 == 4 else callers, time.time() + 0.03)
    ledger.take_limits({tight: limit} if live else {}, number + 1)
    for pipe in pipes:
        pipe.send(plan)
    answers = [one for pipe in pipes for one in pipe.recv()]
    through = {attempt for attempt, found in answers if found == "reserved"}
    refused = Counter(found for _, found in answers if found != "reserved")
    assert standing(client, of_scope) <= limit, f"overshoot in round {number}: {standing(client, of_scope)} of {limit}"
    assert len(through) == FIT, f"{len(through)} of {FIT} got through in round {number} ({tight}): {refused}"
    # who comes twice is let through twice and counted once
    assert refused == {tight: callers - FIT * (callers // plan.attempts)}
    assert standing(client, of_scope) == before + FIT * PRICE
    for n, attempt in enumerate(sorted(through)):
        scopes: Any = client.hget(f"{{paymaster}}:reservation:{attempt}", "scopes")
        ledger.settle(attempt, scopes.split("\n"), PRICE - n % 3)
    assert standing(client, of_scope) == before + FIT * PRICE - sum(n % 3 for n in range(FIT))
    return len(answers)


@pytest.mark.timeout(120)
def test_of_400_callers_in_8_processes_exactly_ten_get_through(real_client: redis.Redis, redis_server: str) -> None:
    warm(real_client)
    with crowd(redis_server) as pipes:
        callers = sum(check_a_round(real_client, pipes, number) for number in range(ROUNDS))
    assert callers == ROUNDS * PROCESSES * THREADS
    day = time.strftime("%Y-%m-%d", time.gmtime())
    spent = ROUNDS * (FIT * PRICE - sum(n % 3 for n in range(FIT)))
    assert real_client.hgetall(f"{{paymaster}}:day:{day}") == {"spent": str(spent), "reserved": "0"}
