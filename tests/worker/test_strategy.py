"""The strategy that is set while the system runs: for every process within a second, over restarts, and noted."""

import time

import pytest

from db.changes import latest
from db.once import once_per_environment
from db.session import read
from selection.errors import UnknownStrategy
from tasks.kinds import Parse
from worker.choose import choose
from worker.strategy import current_strategy, set_strategy

pytestmark = pytest.mark.usefixtures("environment")


def reason() -> str:
    kind = Parse()
    return choose(kind, kind.payload({"job_description": "word " * 500}), "j").reason


def wait_for(strategy: str) -> float:
    """Seconds until this process uses it."""
    began = time.monotonic()
    while current_strategy() != strategy:
        assert time.monotonic() - began < 5
        time.sleep(0.01)
    return time.monotonic() - began


def test_it_is_the_environments_until_somebody_sets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_strategy() == "balanced"
    once_per_environment.forget_all()
    monkeypatch.setenv("MODEL_SELECTION_STRATEGY", "cost_optimized")
    assert current_strategy() == "cost_optimized"


def test_a_process_uses_it_within_a_second_and_after_a_restart() -> None:
    assert reason() == "balanced_strategy_general_complexity"
    assert set_strategy("quality_optimized", "ann@desk") == "quality_optimized"
    assert wait_for("quality_optimized") < 1
    assert reason() == "quality_optimized_strategy_general_complexity"
    once_per_environment.forget_all()
    assert current_strategy() == "quality_optimized"


def test_back_to_the_environments() -> None:
    set_strategy("experimental", "ann@desk")
    assert set_strategy("default", "ann@desk") == "balanced"
    once_per_environment.forget_all()
    assert current_strategy() == "balanced"


def test_every_change_says_who_from_and_to() -> None:
    for name in ("experimental", "cost_optimized", "default"):
        set_strategy(name, "ann@desk")
    with read() as session:
        found = [(c.what, c.before, c.after, c.who) for c in latest(session, 9)]
    assert found == [
        ("strategy", "cost_optimized", None, "ann@desk"),
        ("strategy", "experimental", "cost_optimized", "ann@desk"),
        ("strategy", "balanced", "experimental", "ann@desk"),
    ]


@pytest.mark.parametrize("name", ["cheapest", "", "x" * 300, "a\nb"])
def test_what_is_no_strategy_changes_nothing(name: str) -> None:
    with pytest.raises(UnknownStrategy, match="known: cost_optimized, balanced"):
        set_strategy(name, "ann@desk")
    assert current_strategy() == "balanced"


def test_while_sql_is_away_the_last_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    import worker.strategy
    from tests.worker.lab import lost_database

    set_strategy("experimental", "ann@desk")
    assert current_strategy() == "experimental"
    monkeypatch.setattr(worker.strategy._set(), "_read", lost_database)
    time.sleep(worker.strategy.EVERY_S + 0.05)
    assert current_strategy() == "experimental"


def test_whoever_comes_first_after_a_pause_waits_for_the_new_one() -> None:
    from concurrent.futures import ThreadPoolExecutor

    assert current_strategy() == "balanced"
    set_strategy("experimental", "ann@desk")
    time.sleep(1.1)
    with ThreadPoolExecutor(20) as pool:
        assert {one.result() for one in [pool.submit(current_strategy) for _ in range(20)]} == {"experimental"}
