"""Selection in the worker: what it measures, what it counts, and what becomes of jobs that fit nowhere."""

import time
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

import worker.measured
from db.models import Attempt
from db.once import once_per_environment
from db.session import write
from selection.adaptive import ENOUGH, Record
from tasks.kinds import Generate, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, attempts, run, run_to_the_end, spent_and_reserved, submit
from worker.choose import choose
from worker.errors import JobFailed
from worker.measured import measured
from worker.run import RunAgain

pytestmark = pytest.mark.xdist_group("litellm")

GOOD = {
    (model, "parse"): Record(ENOUGH, cost, ENOUGH, 1000, 100, 1.0)
    for model, cost in (("gpt-4o-mini", 10**5), ("gpt-4o", 10**6), ("claude-sonnet-4-20250514", 10**7))
}


def test_a_job_that_its_model_cannot_hold_runs_on_one_that_can_and_says_why(simulator: Simulator) -> None:
    # some 6,500 tokens: gpt-4 holds 8,192 with the answer's 2,500
    job_data = {"raw_job_description": POSTING * 13}
    result = run(submit(Generate(), job_data=job_data, strategy="legacy"), Generate())
    metadata = result["processing_metadata"]
    assert metadata["model_used"] == "claude-3-sonnet-20240229"
    assert (metadata["selection_reason"], metadata["fallback_used"]) == ("context_too_small", False)
    assert [attempt.reason for attempt in attempts()] == ["context_too_small"]


def test_a_job_that_fits_by_its_count_though_not_by_its_size_stays_on_its_model(simulator: Simulator) -> None:
    job_data = {"raw_job_description": POSTING * 3}
    result = run(submit(Generate(), job_data=job_data, strategy="legacy"), Generate())
    metadata = result["processing_metadata"]
    assert (metadata["model_used"], metadata["selection_reason"]) == ("gpt-4", "legacy_strategy_low_complexity")


def test_a_job_that_fits_nowhere_fails_in_one_sentence_and_costs_nothing(simulator: Simulator) -> None:
    job_id = submit(Generate(), job_data={"raw_job_description": "x", "more": [f"面包{n}" for n in range(45_000)]})
    with pytest.raises(JobFailed, match="are more than any candidate can take") as failed:
        run(job_id, Generate())
    assert failed.value.code == "invalid"
    assert (simulator.requests(), attempts(), spent_and_reserved()) == (0, [], (0, 0))


@pytest.fixture
def readings(environment: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What SQL said when it was asked; each reading appends its number."""
    made: list[int] = []

    def read_once() -> dict[Any, Record]:
        made.append(len(made))
        return dict(GOOD)

    monkeypatch.setattr(worker.measured, "_read", read_once)
    once_per_environment.forget_all()
    return made


def chosen(job_id: str = "j", count: Any = lambda _: 1) -> str:
    return choose(Parse(), Parse().payload({"job_description": "word " * 300}), job_id, count).reason


def test_sql_is_asked_once_in_a_while_and_only_where_models_are_chosen_by_their_record(
    readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen() == "balanced_strategy_general_complexity"
    assert readings == []
    monkeypatch.setenv("MODEL_SELECTION_ADAPTIVE", "true")
    once_per_environment.forget_all()
    assert {chosen(str(n)) for n in range(200)} == {"adaptive_record", "adaptive_exploration"}
    assert readings == [0]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + worker.measured.EVERY_S + 1)
    chosen()
    chosen()
    assert readings == [0, 1]


def test_who_only_submits_asks_nobody(readings: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SELECTION_ADAPTIVE", "true")
    once_per_environment.forget_all()
    assert chosen(count=None) == "balanced_strategy_general_complexity"
    assert readings == []


def test_while_sql_is_away_the_last_record_counts(readings: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured() == GOOD

    def lost() -> None:
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(worker.measured._record(), "_read", lost)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + worker.measured.EVERY_S + 1)
    assert measured() == GOOD


def test_the_record_is_what_attempts_have_measured(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SELECTION_ADAPTIVE", "true")
    once_per_environment.forget_all()
    simulator.fault(fault="invalid_json", first=1)
    run_to_the_end(submit())
    once_per_environment.forget_all()
    found = measured()
    first, second = attempts()
    failed, done = found[first.model_name, "parse"], found[second.model_name, "parse"]
    assert (failed.calls, failed.succeeded, failed.cost, failed.tokens) == (1, 0, first.cost_nano, 0)
    assert (done.calls, done.succeeded, done.cost, done.tokens) == (1, 1, second.cost_nano, second.tokens_used)
    assert (done.p95_ms, done.quality) == (second.processing_time_ms, second.quality_score)
    assert failed.p95_ms is None


def test_a_fallback_is_told_though_the_record_speaks_for_another_model_by_then(
    simulator: Simulator, readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_SELECTION_ADAPTIVE", "true")
    once_per_environment.forget_all()
    monkeypatch.setattr("selection.adaptive.EXPLORED_PERCENT", 0)
    simulator.fault(fault="invalid_json", first=1)
    job_id = submit()
    with pytest.raises(RunAgain):
        run(job_id)
    monkeypatch.setattr(worker.measured, "_read", dict)
    once_per_environment.forget_all()
    metadata = run(job_id)["processing_metadata"]
    assert [(attempt.model_name, attempt.reason) for attempt in attempts()] == [
        ("gpt-4o-mini", "adaptive_record"), ("gpt-4o", "fallback_after_invalid_answer"),
    ]  # fmt: skip
    assert (metadata["model_used"], metadata["fallback_used"]) == ("gpt-4o", True)


def test_a_model_that_failed_and_is_tried_again_is_no_fallback(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=503, first=1)
    result = run_to_the_end(submit())
    assert {attempt.model_name for attempt in attempts()} == {"gpt-4o"}
    assert result["processing_metadata"]["selection_reason"] == "balanced_strategy_general_complexity"
    assert result["processing_metadata"]["fallback_used"] is False


def test_a_worker_leaves_a_failing_model_for_one_that_does_not_cost_more(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_SELECTION_ADAPTIVE", "true")
    once_per_environment.forget_all()
    run(submit())
    with write() as session:
        (attempt,) = session.query(Attempt).all()
        for model, succeeded, cost in (("gpt-4o", False, 20_000_000), ("claude-sonnet-4-20250514", True, 9_000_000)):
            for number in range(ENOUGH):
                session.add(Attempt(
                    id=f"{model}{number}", job_id=attempt.job_id, number=100 + number + 50 * succeeded, part=0,
                    state="succeeded" if succeeded else "failed", success=succeeded, model_name=model, provider="p",
                    task_type="parse", strategy="balanced", reason="r", budget_day="2026-11-22",
                    budget_month="2026-11", reserved_nano=1, cost_nano=cost, tokens_used=1500, processing_time_ms=10,
                    quality_score=1.0,
                ))  # fmt: skip
    once_per_environment.forget_all()
    reasons = [choose(Parse(), Parse().payload({"job_description": POSTING}), str(n), lambda _: 1) for n in range(40)]
    taken = {found.candidates[0].id: found.reason for found in reasons}
    assert taken["claude-sonnet-4-20250514"] == "adaptive_record"
