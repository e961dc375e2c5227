"""Dollars billed beyond a budget: room for 100 calls, 400 sent at once over four processes, for ours and for what
people would use instead. The provider simulator's own bill is the judge.

Prints JSON. `--rounds` (5) of each scenario; `--only ours,router` leaves the others out, `--scenarios at_once,killed`
too. Budgets are a hundred times what one such call costs the contender. Calls that a killed process had not answered
are made again, as a queue would that delivers again what was not acknowledged. The litellm proxy has an environment of
its own: `make bench-peers` makes it."""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ground import PROCESSES, Ours, Played, Scenario
from benchmarks.theirs import NEEDS_PEERS, BudgetManager, Peer, Proxy, ProxyProvider, ProxyStrict, Router, has_peers
from db.once import once_per_environment

CALLS = 400
ROOM = 100
SCENARIOS = {
    "at_once": Scenario("400 calls at once", 100),
    "forty": Scenario("40 in flight at a time, ten in each process", 10),
    "killed": Scenario("the same, and a process is killed -9 after 30 calls, and started again", 10, "kill"),
    "flushed": Scenario("the same, and Redis is flushed after 30 calls", 10, "flush"),
    "restarted": Scenario("the same, and Redis is killed -9 after 30 calls, and started again, empty", 10, "restart"),
    "fallback": Scenario("400 at once; the first model fails, the second costs 17 times as much", 100, fallback=True),
}
CONTENDERS: dict[str, type[Ours] | type[Peer]] = {
    "ours": Ours,
    "router": Router,
    "budget_manager": BudgetManager,
    "proxy_key_budget": Proxy,
    "proxy_key_budget_strict": ProxyStrict,
    "proxy_provider_budget": ProxyProvider,
}


def told(rounds: list[Played]) -> dict[str, Any]:
    """A scenario's rounds as dollars; overshoot is what was billed above the budget."""
    over = [max(0, played.billed - played.budget) for played in rounds]
    budget = rounds[0].budget
    return {
        "rounds": len(rounds),
        "calls": rounds[0].calls,
        "budget_usd": budget / 1e9,
        "billed_usd": [played.billed / 1e9 for played in rounds],
        "served": [played.served for played in rounds],
        "served_median": statistics.median(played.served for played in rounds),
        "overshoot_median_%": round(100 * statistics.median(over) / budget, 1),
        "overshoot_max_%": round(100 * max(over) / budget, 1),
    }


@contextmanager
def ground_of(name: str) -> Iterator[Ours | Peer]:
    """Servers of its own; the environment is as before afterwards."""
    before = dict(os.environ)
    try:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            CONTENDERS[name](Path(folder)) as ground,
        ):
            yield ground
    finally:
        os.environ.clear()
        os.environ.update(before)
        once_per_environment.forget_all()


def measure(name: str, scenarios: list[str], rounds: int, calls: int, processes: int) -> dict[str, Any]:
    """One contender's scenarios."""
    report: dict[str, Any] = {}
    with ground_of(name) as ground:
        for key in scenarios:
            if not ground.takes_part(SCENARIOS[key]):
                continue
            ground.prepare(SCENARIOS[key], processes)
            played = []
            for _ in range(rounds):
                played.append(ground.play(SCENARIOS[key], calls, calls * ROOM // CALLS))
                print(name, key, played[-1], file=sys.stderr, flush=True)
            report[key] = told(played)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--short", action="store_true", help="ours alone, 40 calls once, to see that it works")
    options = parser.parse_args()
    calls, processes = (40, 2) if options.short else (CALLS, PROCESSES)
    if options.short:
        options.only, options.scenarios, options.rounds = "ours", "at_once", 1
    for limit in ("DAILY_BUDGET_USD", "MONTHLY_BUDGET_USD", "MAX_COST_PER_USER_DAILY_USD"):
        os.environ[limit] = "unlimited"
    # else jobs wait for a broken model that they could pay, instead of falling back to one that they cannot
    os.environ["BREAKER_MIN_CALLS"] = "10000"
    report: dict[str, Any] = {"scenarios": {name: scenario.what for name, scenario in SCENARIOS.items()}}
    for name in options.only.split(","):
        if name.startswith("proxy") and not has_peers():
            report[name] = {"left_out": NEEDS_PEERS}
            continue
        report[name] = measure(name, options.scenarios.split(","), options.rounds, calls, processes)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
