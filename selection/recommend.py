"""Which models the record recommends. Pure; docs/api.md has the rule in words.

A model's record counts from `ENOUGH` calls on. Until its own record says otherwise, the strategies' tables stand."""

from collections.abc import Mapping
from typing import TypedDict

from selection.adaptive import ENOUGH, Record, per_call
from selection.registry import Model, Registry
from selection.strategies import Strategies


class Recommendations(TypedDict):
    """Three models by id."""

    cost_leader: str
    quality_leader: str
    balanced_choice: str


def recommend(records: Mapping[str, Record], registry: Registry, strategies: Strategies) -> Recommendations:
    """The recommendations by the chat models' records, which are by model id."""
    offered = registry.offered("chat")
    known = {m.id: records[m.id] for m in offered if m.id in records and records[m.id].calls >= ENOUGH}
    goals = strategies["balanced"].goals
    sound = [m for m in offered if m.id not in known or not known[m.id].fails_too_often(goals)] or [*offered]
    measured = [m for m in sound if m.id in known]
    rated = [m for m in measured if known[m.id].quality is not None]

    def cost(model: Model) -> float:
        return per_call(model, known.get(model.id))

    quality = registry.models[strategies["quality_optimized"].models["generate"]["high"]]
    if quality.id in known:
        quality = max(rated, key=lambda m: known[m.id].quality or 0, default=quality)
    balanced = registry.models[strategies["balanced"].models["generate"]["general"]]
    if balanced.id in known:
        balanced = min(measured, key=lambda m: (known[m.id].misses(goals), cost(m)), default=balanced)
    return {"cost_leader": min(sound, key=cost).id, "quality_leader": quality.id, "balanced_choice": balanced.id}


def merged(records: list[Record]) -> Record:
    """The records of one model for several kinds of job as one. The 95th percentile is the longest of theirs."""
    rated = [
        (record.quality, record.succeeded) for record in records if record.quality is not None and record.succeeded
    ]
    times = [record.p95_ms for record in records if record.p95_ms is not None]
    weight = sum(count for _, count in rated)
    return Record(
        calls=sum(record.calls for record in records),
        cost=sum(record.cost for record in records),
        succeeded=sum(record.succeeded for record in records),
        tokens=sum(record.tokens for record in records),
        p95_ms=max(times, default=None),
        quality=sum(quality * count for quality, count in rated) / weight if weight else None,
    )
