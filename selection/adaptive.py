"""Choosing by the models' measured record, within the bounds of the strategy. Pure: the record is handed in.

The strategy's table stands unless enough of its model's own calls were measured. Then, of the models on the strategy's
ladder, the one is taken that misses the fewest goals (quality first, which nothing mends; then success, which fallbacks
mend; then time) and, among those, is expected to cost least. The strategy's fallback joins them where the table's model
misses the goal of success. None is taken that is expected to cost noticeably more than the table's model does together
with its failures.

A small share of the jobs explores: it goes to the table's model where that was left, or to a cheaper one on the ladder,
so that a model is found once it is good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from budget.money import Usage
from selection.reasons import Reason
from selection.registry import Model
from selection.split import bucket
from selection.strategies import Goals, Strategy

# Calls of a model that must have been measured before its record counts.
ENOUGH = 20
# The percentage of jobs that explore, and by which a choice may be expected to cost more than the table's.
EXPLORED_PERCENT = 5
# A job to compare costs by.
TYPICAL = Usage(3000, 1000)


@dataclass(frozen=True, slots=True)
class Record:
    """The latest calls of one model for one kind of job: how many, and what they cost together in nano-USD; of those
    that succeeded the number, the tokens, the 95th percentile of milliseconds and the mean quality. None where nothing
    was measured."""

    calls: int
    cost: int
    succeeded: int
    tokens: int
    p95_ms: float | None
    quality: float | None

    @property
    def success(self) -> float:
        return self.succeeded / self.calls

    def fails_too_often(self, goals: Goals) -> bool:
        """Whether more calls failed than the goal allows and chance explains (by two standard deviations)."""
        expected = self.calls * (1 - goals.success)
        return self.calls - self.succeeded > expected + 2 * sqrt(expected * goals.success)

    def misses(self, goals: Goals) -> tuple[bool, bool, bool]:
        """Which goals are missed, the most important first."""
        return (
            self.quality is not None and self.quality < goals.quality,
            self.fails_too_often(goals),
            self.p95_ms is not None and self.p95_ms > goals.p95_ms,
        )


# by (model id, kind of job)
Statistics = Mapping[tuple[str, str], Record]


def adapt(
    choice: Model, kind: str, strategy: Strategy, candidates: Sequence[Model], statistics: Statistics, job_id: str
) -> tuple[Model, Reason | None]:
    """The model that the record speaks for, and why; the table's `choice` and None where it stands. `candidates` are
    the job's, of which only those within the strategy's bounds are looked at."""
    ladder = {choice.id, *strategy.models[kind].values()}
    best = _best(choice, kind, strategy, ladder, candidates, statistics)
    if bucket(f"explore:{job_id}", 100) < EXPLORED_PERCENT:
        price = _list_price(choice)
        cheaper = [m for m in candidates if m.id in ladder and m.id != best.id and _list_price(m) < price]
        left = [choice] if best.id != choice.id else []
        # what was left for a dearer one comes first
        probes = left if _list_price(best) > price else left + cheaper
        if probes:
            return probes[bucket(f"probe:{job_id}", len(probes))], Reason.ADAPTIVE_EXPLORATION
    return best, None if best.id == choice.id else Reason.ADAPTIVE_RECORD


def _best(
    choice: Model,
    kind: str,
    strategy: Strategy,
    ladder: set[str],
    candidates: Sequence[Model],
    statistics: Statistics,
) -> Model:
    records = {m.id: r for m in candidates if (r := statistics.get((m.id, kind))) and r.calls >= ENOUGH}
    if choice.id not in records:
        return choice
    goals, fallback = strategy.goals, strategy.fallback[kind]
    bounds = ladder | {fallback} if records[choice.id].fails_too_often(goals) else ladder

    def expected(model: Model) -> float:
        """Nano-USD of a typical job: on this model, and where it fails on the one after it."""
        after = next((m for m in (*candidates[1:], choice) if m.id != model.id), model)
        record = records[model.id]
        return per_call(model, record) + (1 - record.success) * per_call(after, records.get(after.id))

    most = expected(choice) * (100 + EXPLORED_PERCENT) / 100
    known = [m for m in candidates if m.id in bounds and m.id in records and expected(m) <= most]
    return min(known, key=lambda m: (records[m.id].misses(goals), expected(m)), default=choice)


def per_call(model: Model, record: Record | None) -> float:
    """Nano-USD of one call for a typical job; what failures were charged is in it."""
    if record is None:
        return _list_price(model)
    if not record.tokens:
        return record.cost / record.calls
    return record.cost / record.tokens * TYPICAL.total * record.success


def _list_price(model: Model) -> int:
    return model.rates.cost(TYPICAL)
