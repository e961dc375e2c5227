"""Which models the record recommends, by the rule of docs/api.md."""

import pytest

from selection.adaptive import ENOUGH, Record
from selection.recommend import merged, recommend
from selection.registry import load_registry
from selection.strategies import load_strategies

MINI, GPT, SONNET, OPUS = "gpt-4o-mini", "gpt-4o", "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
BY_REGISTRY = {"cost_leader": MINI, "quality_leader": OPUS, "balanced_choice": GPT}


def record(
    calls: int = ENOUGH, cost: int = 10**7, quality: float | None = 0.9, failed: int = 0, p95: int = 900
) -> Record:
    """`cost` in nano-USD per call of 1000 tokens."""
    good = calls - failed
    return Record(calls, cost * calls, good, 1000 * good, p95, quality)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({}, BY_REGISTRY),
        ({GPT: record(ENOUGH - 1, quality=0.1)}, BY_REGISTRY),
        # the cheapest by the list turns out dear
        ({MINI: record(cost=10**9)}, {**BY_REGISTRY, "cost_leader": GPT}),
        # the premium model was measured, and another one is better
        ({OPUS: record(quality=0.8), SONNET: record(quality=0.95)}, {**BY_REGISTRY, "quality_leader": SONNET}),
        # another one is better, but the premium model has no record yet
        ({SONNET: record(quality=0.95)}, BY_REGISTRY),
        # the table's model misses the goal of quality
        ({GPT: record(quality=0.7), SONNET: record(quality=0.9)}, {**BY_REGISTRY, "balanced_choice": SONNET}),
        # both reach the goals: the cheaper one
        ({GPT: record(), MINI: record(cost=10**5)}, {**BY_REGISTRY, "balanced_choice": MINI}),
        # what fails too often is nobody's leader
        ({MINI: record(failed=ENOUGH // 2)}, {**BY_REGISTRY, "cost_leader": GPT}),
        # embedding models and models that are not offered are not recommended
        ({"gpt-3.5-turbo": record(cost=1, quality=1)}, BY_REGISTRY),
    ],
)  # fmt: skip
def test_recommendations_follow_the_written_rule(
    environment: None, records: dict[str, Record], expected: dict[str, str]
) -> None:
    assert recommend(records, load_registry(), load_strategies()) == expected


def test_records_of_several_kinds_are_one() -> None:
    one = merged([record(20, quality=0.8), record(20, quality=None, failed=10, p95=2000), record(60, quality=1.0)])
    assert (one.calls, one.succeeded, one.p95_ms, one.quality) == (100, 90, 2000, 0.95)
