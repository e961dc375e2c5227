"""Choosing by the measured record: case by case, and over thousands of simulated jobs."""

import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest

from selection.adaptive import ENOUGH, EXPLORED_PERCENT, TYPICAL, Record, Statistics
from selection.reasons import Reason
from selection.registry import Model, Registry, load_registry
from selection.rules import JobFacts
from selection.select import Selection, select
from selection.settings import SelectionSettings
from selection.split import bucket
from worker.measured import LATEST_CALLS

MINI, GPT = "gpt-4o-mini", "gpt-4o"
SONNET, OPUS = "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
SETTINGS = SelectionSettings()
GENERAL = JobFacts(kind="parse", words=300)
MODELS = load_registry().models


def explores(job_id: str) -> bool:
    return bucket(f"explore:{job_id}", 100) < EXPLORED_PERCENT


QUIET = next(str(n) for n in range(1000) if not explores(str(n)))


def record(model: str, *, calls: int = 50, success: float = 1, p95_ms: float = 900, quality: float = 0.95) -> Record:
    """The record of a model whose failures cost nothing."""
    succeeded = round(calls * success)
    cost = MODELS[model].rates.cost(TYPICAL) * succeeded
    return Record(calls, cost, succeeded, TYPICAL.total * succeeded, p95_ms, quality)


GOOD: Statistics = {(name, kind): record(name) for name in (MINI, GPT, SONNET, OPUS) for kind in ("parse", "generate")}


def chosen(changes: dict[str, Record | None], facts: JobFacts = GENERAL, job_id: str = QUIET) -> tuple[str, str]:
    """Model and reason where all are good but for these."""
    statistics = {key: found for key in GOOD if (found := changes.get(key[0], GOOD[key])) is not None}
    found = select(facts, SETTINGS, statistics=statistics, job_id=job_id)
    return found.candidates[0].id, found.reason


TABLE = (GPT, "balanced_strategy_general_complexity")
BAD_MINI = record(MINI, quality=0.5)

CASES = [
    ({}, (MINI, "adaptive_record"), "one that is as good and cheaper is taken"),
    ({MINI: BAD_MINI}, TABLE, "but not for less quality"),
    ({MINI: record(MINI, success=0.9)}, (MINI, "adaptive_record"), "5 of 50 may have failed by chance"),
    ({MINI: record(MINI, success=0.88)}, TABLE, "6 of 50 hardly"),
    ({MINI: record(MINI, p95_ms=2001)}, TABLE, "nor if it takes longer than the goal"),
    ({MINI: record(MINI, p95_ms=2000)}, (MINI, "adaptive_record"), "the goal itself is met"),
    ({MINI: record(MINI, success=0.8), GPT: record(GPT, success=0.8)}, (MINI, "adaptive_record"), "equally bad"),
    ({MINI: record(MINI, calls=ENOUGH - 1)}, TABLE, "too few measurements"),
    ({MINI: record(MINI, calls=ENOUGH)}, (MINI, "adaptive_record"), "just enough"),
    ({GPT: record(GPT, calls=ENOUGH - 1)}, TABLE, "too few measurements of the table's model"),
    ({GPT: None}, TABLE, "nothing is known of the table's model"),
    ({MINI: BAD_MINI, GPT: record(GPT, success=0)}, (SONNET, "adaptive_record"), "the fallback steps in"),
    ({MINI: BAD_MINI, GPT: record(GPT, success=0.5)}, TABLE, "failures that cost nothing are worth a try"),
    (
        {MINI: BAD_MINI, GPT: replace(record(GPT, success=0.5), cost=3 * record(GPT).cost)},
        (SONNET, "adaptive_record"),
        "failures that are charged are not",
    ),
    ({MINI: None, GPT: record(GPT, quality=0.5)}, TABLE, "a dearer model does not replace a poor one"),
    ({MINI: BAD_MINI, GPT: record(GPT, quality=0.5)}, (MINI, "adaptive_record"), "of two poor ones the cheaper"),
    ({MINI: BAD_MINI, GPT: record(GPT, p95_ms=9000)}, TABLE, "nor a slow one"),
    ({MINI: None, SONNET: None, GPT: record(GPT, success=0)}, TABLE, "nobody else was measured"),
    ({MINI: replace(BAD_MINI, quality=None)}, (MINI, "adaptive_record"), "what was not measured misses no goal"),
]


@pytest.mark.parametrize(("changes", "found", "why"), CASES, ids=[why for _, _, why in CASES])
def test_the_record_speaks_for(changes: dict[str, Record | None], found: tuple[str, str], why: str) -> None:
    assert chosen(changes) == found


def test_after_the_chosen_model_comes_the_fallback_and_all_candidates_stay() -> None:
    found = select(GENERAL, SETTINGS, statistics=GOOD, job_id=QUIET)
    assert [model.id for model in found.candidates] == [MINI, SONNET, GPT]


def test_without_measurements_and_without_being_asked_the_table_stands() -> None:
    assert chosen(dict.fromkeys((MINI, GPT, SONNET, OPUS))) == TABLE
    assert select(GENERAL, SETTINGS, job_id=QUIET).candidates[0].id == GPT


@pytest.mark.parametrize("job_id", [QUIET, "explorer"])
def test_quality_strategies_generate_with_nothing_less_than_their_own_model(job_id: str) -> None:
    job_id = job_id if job_id == QUIET else next(str(n) for n in range(1000) if explores(str(n)))
    for strategy in ("quality_optimized", "experimental"):
        facts = JobFacts(kind="generate", words=300, strategy=strategy)
        assert chosen({}, facts, job_id)[0] == OPUS
        assert chosen({OPUS: record(OPUS, quality=0.1, p95_ms=9999)}, facts, job_id)[0] == OPUS
    failing = JobFacts(kind="generate", words=300, strategy="quality_optimized")
    assert chosen({OPUS: record(OPUS, success=0.2)}, failing, QUIET) == (SONNET, "adaptive_record")


def test_who_was_asked_for_is_taken_whatever_the_record_and_embed_jobs_too() -> None:
    asked = JobFacts(kind="parse", words=300, requested_model=OPUS)
    for number in range(200):
        assert chosen({OPUS: record(OPUS, success=0)}, asked, str(number)) == (OPUS, "requested_model")
        embed = select(JobFacts(kind="embed"), SETTINGS, statistics=GOOD, job_id=str(number))
        assert embed.reason == "balanced_strategy_standard_use_case"


def test_one_job_in_twenty_explores_what_was_left_or_is_cheaper() -> None:
    found = [chosen({MINI: BAD_MINI}, job_id=str(n)) for n in range(4000)]
    explored = [model for model, reason in found if reason == Reason.ADAPTIVE_EXPLORATION]
    assert 0.04 < len(explored) / 4000 < 0.06
    assert set(explored) == {MINI}
    for changes, probes in (
        ({GPT: record(GPT, success=0), MINI: BAD_MINI}, {GPT}),  # left for a dearer one
        ({}, {GPT}),  # left for a cheaper one
        ({GPT: None, MINI: None}, {MINI}),
    ):
        found = [chosen(changes, job_id=str(n)) for n in range(1000)]
        assert {model for model, reason in found if reason == Reason.ADAPTIVE_EXPLORATION} == probes


def test_the_same_job_decides_the_same_again() -> None:
    assert [chosen({}, job_id=str(n)) for n in range(200)] == [chosen({}, job_id=str(n)) for n in range(200)]


def test_a_model_that_does_not_fit_is_not_chosen_for_its_record() -> None:
    facts = replace(GENERAL, prompt_bytes=10**6)
    small = {MINI: 128_000, GPT: 1_000_000, SONNET: 200_000}
    registry = load_registry()
    models = registry.models | {GPT: MODELS[GPT].model_copy(update={"context": 2_000_000})}
    larger = Registry(providers=registry.providers, models=models)
    found = select(facts, SETTINGS, registry=larger, statistics=GOOD, job_id=QUIET, count=lambda m: small[m.id] + 1)
    assert ([model.id for model in found.candidates], found.reason) == ([GPT], TABLE[1])


def test_the_candidates_after_it_fit_the_job_too() -> None:
    registry = load_registry()
    short = MODELS[SONNET].model_copy(update={"max_output": 10})
    found = select(
        replace(GENERAL, answer_tokens=1000), SETTINGS, statistics=GOOD, job_id=QUIET,
        registry=Registry(providers=registry.providers, models=registry.models | {SONNET: short}),
    )  # fmt: skip
    assert [model.id for model in found.candidates] == [MINI, GPT]


@dataclass
class Behaviour:
    """How a model does: the share of calls that succeed, and the share of their price that failures are charged."""

    success: float = 0.99
    charged: float = 0.0
    quality: float = 0.95


@dataclass
class World:
    """Providers, and a worker's sliding record of their latest calls."""

    behaviour: dict[str, Behaviour]
    seed: int
    calls: dict[str, deque[tuple[bool, int, float]]] = field(default_factory=dict)
    cost: int = 0

    def statistics(self) -> Statistics:
        made = {}
        for name, calls in self.calls.items():
            done = [call for call in calls if call[0]]
            quality = sum(call[2] for call in done) / len(done) if done else None
            cost = sum(call[1] for call in calls)
            made[name, "parse"] = Record(len(calls), cost, len(done), TYPICAL.total * len(done), 900, quality)
        return made

    def run(self, number: int, found: Selection) -> list[str]:
        """Call the candidates until one succeeds; a model that fails here fails for everybody at that moment."""
        tried = []
        for model in found.candidates:
            tried.append(model.id)
            if self._call(number, model):
                break
        return tried

    def _call(self, number: int, model: Model) -> bool:
        how = self.behaviour[model.id]
        ok = random.Random(f"{self.seed} {number} {model.id}").random() < how.success
        cost = round(model.rates.cost(TYPICAL) * (1 if ok else how.charged))
        self.calls.setdefault(model.id, deque(maxlen=LATEST_CALLS)).append((ok, cost, how.quality))
        self.cost += cost
        return ok


def simulate(behaviours: list[tuple[int, dict[str, Behaviour]]], seed: int) -> tuple[list[str], int, int, int]:
    """Jobs one after another while the models' behaviour changes, each phase so many jobs long. Returns the first
    model of every job, and in nano-USD what the adaptive run cost, what the plain one cost, and what the jobs that
    explored cost."""
    adaptive, plain = World({}, seed), World({}, seed)
    firsts, number, explored = [], 0, 0
    for jobs, behaviour in behaviours:
        adaptive.behaviour = plain.behaviour = behaviour
        for number in range(number, number + jobs):  # noqa: B020
            job_id = f"{seed}-{number}"
            before = adaptive.cost
            found = select(GENERAL, SETTINGS, statistics=adaptive.statistics(), job_id=job_id)
            firsts.append(adaptive.run(number, found)[0])
            if found.reason == Reason.ADAPTIVE_EXPLORATION:
                explored += adaptive.cost - before
            plain.run(number, select(GENERAL, SETTINGS, job_id=job_id))
        number += 1
    return firsts, adaptive.cost, plain.cost, explored


FINE = {MINI: Behaviour(quality=0.6), GPT: Behaviour(), SONNET: Behaviour()}
# how gpt-4o turns bad: nothing comes back; answers that are paid for do not validate; timeouts, charged in full
WAYS = {
    "an outage": Behaviour(success=0),
    "nine of ten answers are invalid": Behaviour(success=0.1, charged=1),
    "half the calls time out": Behaviour(success=0.5, charged=1.6),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_became_bad_is_left_within_200_jobs_and_taken_again_once_it_is_good(way: str, seed: int) -> None:
    phases = [(300, FINE), (600, FINE | {GPT: WAYS[way]}), (1500, FINE)]
    firsts, cost, plain, explored = simulate(phases, seed)
    good, bad, again = firsts[:300], firsts[300:900], firsts[900:]
    assert good.count(GPT) > 0.9 * len(good)
    assert bad[200:].count(GPT) < 0.1 * len(bad[200:])
    assert again[-300:].count(GPT) > 0.9 * 300
    assert cost <= plain * (100 + EXPLORED_PERCENT) / 100 + explored


@pytest.mark.parametrize("seed", range(5))
def test_a_cheaper_model_that_became_good_enough_is_found(seed: int) -> None:
    firsts, cost, plain, _ = simulate([(300, FINE), (2700, FINE | {MINI: Behaviour()})], seed)
    assert firsts[-500:].count(MINI) > 450
    assert cost < 0.6 * plain


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_costs_no_more_than_the_plain_strategy_and_the_exploration(seed: int) -> None:
    chance = random.Random(seed)
    phases = [
        (
            chance.randrange(50, 400),
            {
                model: Behaviour(chance.choice([0, 0.3, 0.8, 0.99, 1]), chance.choice([0, 0.5, 1, 2]), chance.random())
                for model in (MINI, GPT, SONNET)
            },
        )
        for _ in range(5)
    ]
    _, cost, plain, explored = simulate(phases, seed)
    assert cost <= plain * (100 + EXPLORED_PERCENT) / 100 + explored
