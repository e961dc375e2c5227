"""The split test: shares, and that a user stays where the user is."""

import subprocess
import sys
from collections import Counter
from hashlib import sha256

import pytest
from pydantic import ValidationError

from selection.rules import JobFacts
from selection.select import select
from selection.settings import SelectionSettings
from selection.split import BUCKETS, DEFAULT, Shares, bucket, parse_shares, strategy_of_user
from selection.strategies import load_strategies

SPEC = {"cost_optimized": 25, "balanced": 50, "quality_optimized": 20, "experimental": 5}


def settings_of(**more: object) -> SelectionSettings:
    return SelectionSettings.model_validate({"model_selection_strategy": "legacy", **more})


def test_the_default_shares_are_the_customers() -> None:
    assert dict(DEFAULT) == SPEC
    assert settings_of(model_split_test="true").model_split_test == DEFAULT
    assert set(SPEC) <= set(load_strategies())


@pytest.mark.parametrize("name", [str, lambda number: f"user-{number}@example.org"])
def test_of_100_000_users_each_strategy_gets_its_share_within_half_a_point(name) -> None:
    found = Counter(strategy_of_user(name(number), DEFAULT) for number in range(100_000))
    assert set(found) == set(SPEC)
    for strategy, percent in SPEC.items():
        assert abs(found[strategy] / 1000 - percent) < 0.5


def test_of_all_buckets_each_strategy_has_exactly_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selection.split.bucket", lambda name: int(name.removeprefix("split:")))
    found = Counter(strategy_of_user(str(place), DEFAULT) for place in range(BUCKETS))
    assert found == {strategy: percent * BUCKETS // 100 for strategy, percent in SPEC.items()}


# Users must stay where they are in every release: these values may never change.
PINNED = {
    "1": "balanced",
    "2": "cost_optimized",
    "42": "balanced",
    "18": "experimental",
    "anna": "cost_optimized",
    "Ünal": "balanced",
    "面包师": "quality_optimized",
}
THE_FIRST_THOUSAND = "c83e51863bf18086"


@pytest.mark.parametrize(("user", "strategy"), PINNED.items())
def test_a_user_stays_in_the_same_strategy_for_ever(user: str, strategy: str) -> None:
    assert strategy_of_user(user, DEFAULT) == strategy


def test_the_first_thousand_users_stay_where_they_are() -> None:
    found = " ".join(strategy_of_user(str(number), DEFAULT) for number in range(1000))
    assert sha256(found.encode()).hexdigest()[:16] == THE_FIRST_THOUSAND


def test_a_user_is_in_the_same_strategy_in_every_process() -> None:
    program = "from selection.split import *; print([strategy_of_user(str(n), DEFAULT) for n in range(300)])"
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True,
                       env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert outputs == {f"{[strategy_of_user(str(n), DEFAULT) for n in range(300)]}\n".encode()}


def test_a_share_of_nothing_gets_nobody_and_all_gets_everybody() -> None:
    assert {strategy_of_user(str(n), parse_shares("balanced=100,legacy=0")) for n in range(500)} == {"balanced"}
    assert {strategy_of_user(str(n), (("a", 0), ("b", 100))) for n in range(500)} == {"b"}


def test_buckets_are_whole_numbers_below_their_count() -> None:
    assert {bucket(str(n), 3) for n in range(100)} == {0, 1, 2}
    assert bucket("x", 1) == 0


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("true", DEFAULT), ("TRUE", DEFAULT), ("1", DEFAULT), ("on", DEFAULT), ("yes", DEFAULT),
        ("false", ()), ("", ()), ("0", ()), (None, ()), ("off", ()), ("no", ()),
        ("balanced=90, experimental=10", (("balanced", 90), ("experimental", 10))),
        ("experimental=10,balanced=90", (("balanced", 90), ("experimental", 10))),
        ("balanced=100", (("balanced", 100),)),
    ],
)  # fmt: skip
def test_shares_are_read_whatever_their_order(text: str | None, shares: Shares) -> None:
    assert parse_shares(text) == shares


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("balanced=90", "add up to 90 and must add up to 100"),
        ("balanced=90,legacy=20", "add up to 110"),
        ("balanced", "are no shares"), ("balanced=x", "are no shares"), ("balanced=-5,legacy=105", "are no shares"),
        ("balanced=50,balanced=50", "are no shares"), ("=100", "are no shares"),
        ("balanced=99.5,legacy=0.5", "are no shares"),
        ("balanced=٥٠,legacy=50", "are no shares"), ("maybe", "are no shares"), ("balanced=100,", "are no shares"),
    ],
)  # fmt: skip
def test_what_are_no_shares_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_shares(text)
    with pytest.raises(ValidationError, match=sentence):
        settings_of(model_split_test=text)


def test_the_split_decides_for_users_only_and_after_the_jobs_own_strategy() -> None:
    on = settings_of(model_split_test="quality_optimized=100")
    job = JobFacts(kind="parse", words=300, user_id="7")
    assert select(job, on).strategy.name == "quality_optimized"
    assert select(job, on).reason == "quality_optimized_strategy_general_complexity"
    assert select(job, on, strategy="balanced").strategy.name == "quality_optimized"
    assert select(JobFacts(kind="parse"), on).strategy.name == "legacy"
    assert select(JobFacts(kind="parse"), on, strategy="balanced").strategy.name == "balanced"
    assert select(JobFacts(kind="parse", user_id="7", strategy="experimental"), on).strategy.name == "experimental"
    assert select(job, settings_of()).strategy.name == "legacy", "it is off unless it is switched on"


def test_a_requested_model_comes_before_the_split_and_the_strategy_is_still_the_users() -> None:
    on = settings_of(model_split_test="quality_optimized=100")
    found = select(JobFacts(kind="parse", user_id="7", requested_model="gpt-4o-mini"), on)
    assert (found.candidates[0].id, found.reason, found.strategy.name) == (
        "gpt-4o-mini", "requested_model", "quality_optimized",
    )  # fmt: skip
