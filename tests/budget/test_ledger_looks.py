"""What only looks at the ledger, or leaves a sign there: it says what is so, or in one sentence that Redis is away or
holds what it cannot."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from budget.breaker import Told, Verdict, breakers
from budget.compare import differences
from budget.connection import connect
from budget.errors import BreakerOpen, LedgerDown
from budget.ledger import Ledger
from budget.rebuild import rebuild, rebuild_if_cold
from budget.scopes import OPEN, REBUILDING, WARM, job_key, reservation_key
from budget.settings import BreakerSettings, BudgetSettings
from cli.stack import free_port
from db.models import CostBasis
from tests.budget.conftest import counters, hold
from tests.budget.test_rebuild import busy

LOOKS: dict[str, Callable[[Ledger], Any]] = {
    "breakers": lambda ledger: breakers(ledger.client, ["m"]),
    "differences": differences,
    "note_sweep": Ledger.note_sweep,
    "overdue": Ledger.overdue,
    "periods": Ledger.periods,
    "rebuild": rebuild,
    "restore_job": lambda ledger: ledger.restore_job("j1", 5),
    "signs_of_life": Ledger.signs_of_life,
    "take_limits": lambda ledger: ledger.take_limits({"daily": 5}, 1),
    "usage": lambda ledger: ledger.usage(moment=time.time()),
    "usage_of_users": lambda ledger: ledger.usage_of_users(["u1"], time.time()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_redis_that_is_away_is_said_to_be(environment: None, look: str) -> None:
    away = Ledger(connect(f"redis://127.0.0.1:{free_port()}/0"), BudgetSettings())
    with pytest.raises(LedgerDown, match="Redis"):
        LOOKS[look](away)
    away.client.close()


def test_a_comparison_says_which_counter_cannot_be_read(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    warm_ledger.client.set(f"{{paymaster}}:user:{warm_ledger.periods().day}:u9", "spoilt")
    with pytest.raises(LedgerDown):
        differences(warm_ledger)


def test_a_reservation_that_is_gone_and_still_listed_is_no_difference(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper strikes it off; it holds no money."""
    monkeypatch.setattr("budget.compare.time", SimpleNamespace(sleep=lambda _: None))
    busy(warm_ledger)
    warm_ledger.client.zadd(OPEN, {reservation_key("gone"): 1})
    assert differences(warm_ledger) == []
    assert "gone" not in dict(warm_ledger.overdue())
    assert warm_ledger.client.zscore(OPEN, reservation_key("gone")) is None


def test_a_rebuild_by_hand_waits_for_the_one_that_is_under_way(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(warm_ledger)
    before = counters(warm_ledger.client)
    warm_ledger.client.set(REBUILDING, "another")
    waited = []

    def other_ends(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            warm_ledger.client.delete(REBUILDING)
            assert rebuild_if_cold(warm_ledger, wait_s=0)

    monkeypatch.setattr("budget.rebuild.time", SimpleNamespace(sleep=other_ends, time=time.time))
    rebuild(warm_ledger)
    # ours, and that of the other's rebuild
    assert len(waited) == 2 and waited[0] > 0 and warm_ledger.client.exists(WARM)
    before.pop(job_key("done"))  # it is over, and its counter of no use
    assert counters(warm_ledger.client) == before


def test_a_breaker_says_until_when_it_lets_nobody_through(warm_ledger: Ledger) -> None:
    ledger = Ledger(warm_ledger.client, BudgetSettings(), BreakerSettings())
    held = hold(ledger, model="m")
    ledger.conclude("a1", held.scope_keys, CostBasis.NOT_BILLED, 0, "m", Told(Verdict.BAD, 3600))
    with pytest.raises(BreakerOpen, match=r"^m has failed too often lately; it is tried again at \d\d:\d\d:\d\d UTC$"):
        hold(ledger, "a2", model="m")
    held = hold(ledger, "a3", model="n")
    ledger.conclude("a3", held.scope_keys, CostBasis.USAGE, 5, "n", Told(Verdict.BAD))
    found, failed, unknown = breakers(ledger.client, ["m", "n", "o"])
    assert found.until is not None and found.until > time.time() + 3000
    assert found.row["until"] == datetime.fromtimestamp(found.until, UTC).isoformat()
    assert found.row["state"] == "open"
    assert failed.row == {"state": "closed", "until": None, "calls": 1, "failures": 1}
    assert unknown.row == {"state": "closed", "until": None, "calls": 0, "failures": 0}


def test_a_clock_that_stays_another_days_is_refused(warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis says what time it is, and once more, and neither is a time of the day that it is there."""
    monkeypatch.setattr(warm_ledger, "_reserve", lambda **_: ["period", "86400"])
    with pytest.raises(LedgerDown, match="jumped over midnight twice"):
        hold(warm_ledger)


def test_a_redis_that_goes_before_a_job_is_restored_is_said_to_be_away(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Ledger(connect(f"redis://127.0.0.1:{free_port()}/0"), BudgetSettings())
    monkeypatch.setattr(away, "periods", warm_ledger.periods)  # the last that it said
    with pytest.raises(LedgerDown, match="Redis"):
        away.restore_job("j1", 5)
    away.client.close()
