"""The figures by model and by strategy, from SQL."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from db.models import Attempt, AttemptState, Job, JobState, utc_now
from db.session import read, write
from db.statistics import by_model, by_strategy

pytestmark = pytest.mark.usefixtures("environment")
NOW = utc_now()


def add(count: int = 1, *, minutes_ago: float = 1, number: int = 1, job: str | None = None, **fields: Any) -> None:
    """`count` jobs with one attempt each; or one more attempt of a job that is there."""
    state = fields.pop("state", AttemptState.SUCCEEDED)
    kind = fields.get("task_type", "parse")
    job_state = fields.pop("job_state", JobState.SUCCEEDED if state == AttemptState.SUCCEEDED else JobState.FAILED)
    row = {
        "model_name": "m", "provider": "p", "task_type": "parse", "strategy": "balanced", "reason": "r",
        "budget_day": "2026-11-22", "budget_month": "2026-11", "reserved_nano": 100, "cost_nano": 10,
        "tokens_used": 5, "processing_time_ms": 100, "quality_score": 0.5,
        "success": None if state == AttemptState.CALLING else state == AttemptState.SUCCEEDED,
    } | fields  # fmt: skip
    created = NOW - timedelta(minutes=minutes_ago)
    with write() as session:
        for _ in range(count):
            job_id = job or uuid4().hex
            if session.get(Job, job_id) is None:
                session.add(Job(id=job_id, kind=kind, state=job_state, queue=kind, payload={}, created_at=created,
                                total_cost_nano=row["cost_nano"]))  # fmt: skip
                session.flush()
            session.add(Attempt(id=uuid4().hex, job_id=job_id, number=number, part=0, state=state, created_at=created,
                                **row))  # fmt: skip


def models(latest: int = 100, hours: float = 1) -> dict[tuple[str, str], Any]:
    with read() as session:
        rows = by_model(session, NOW - timedelta(hours=hours), latest)
    return {(row.model_name, row.task_type): row for row in rows}


def test_calls_are_counted_per_model_and_kind() -> None:
    add(3)
    add(2, task_type="generate", tokens_used=7)
    add(1, model_name="other")
    assert {key: (row.calls, row.succeeded, row.tokens, row.cost) for key, row in models().items()} == {
        ("m", "parse"): (3, 3, 15, 30), ("m", "generate"): (2, 2, 14, 20), ("other", "parse"): (1, 1, 5, 10),
    }  # fmt: skip


def test_failures_count_with_what_they_were_charged_but_bring_no_time_quality_or_tokens() -> None:
    add(2)
    add(1, state=AttemptState.FAILED, cost_nano=0, processing_time_ms=9999, quality_score=0.0, error_code="http_500")
    add(1, state=AttemptState.UNKNOWN, cost_nano=100, processing_time_ms=9999, quality_score=None, error_code="timeout")
    row = models()["m", "parse"]
    assert (row.calls, row.succeeded, row.cost, row.tokens, row.p95_ms, row.quality) == (4, 2, 120, 10, 100, 0.5)


def test_what_is_not_the_models_doing_does_not_count() -> None:
    add(1)
    add(1, state=AttemptState.CALLING)
    for code in ("late_record", "runner_lost", "shutdown", "not_sent"):
        add(1, state=AttemptState.UNKNOWN, error_code=code)
    assert models()["m", "parse"].calls == 1


def test_only_the_latest_calls_of_each_model_count_and_none_that_is_older() -> None:
    add(5, minutes_ago=10, state=AttemptState.FAILED, cost_nano=0)
    add(3, minutes_ago=5)
    add(1, minutes_ago=5, model_name="other")
    assert (models(latest=4)["m", "parse"].calls, models(latest=4)["m", "parse"].succeeded) == (4, 3)
    assert models(latest=3)["m", "parse"].succeeded == 3
    assert models(hours=0.1)["m", "parse"].calls == 3
    assert models(latest=3)["other", "parse"].calls == 1
    assert models(hours=0.01) == {}


@pytest.mark.parametrize(("count", "p95"), [(1, 10), (2, 20), (19, 190), (20, 190), (21, 200), (100, 950)])
def test_the_95th_percentile_is_the_time_that_95_of_100_calls_stayed_within(count: int, p95: int) -> None:
    for place in range(count):
        add(1, processing_time_ms=10 * (place + 1))
    assert models()["m", "parse"].p95_ms == p95


def test_without_performance_figures_there_is_no_time_and_no_quality() -> None:
    add(2, processing_time_ms=None, quality_score=None)
    assert (models()["m", "parse"].p95_ms, models()["m", "parse"].quality) == (None, None)


def strategies() -> dict[tuple[str, str], Any]:
    with read() as session:
        return {(row.strategy, row.kind): row for row in by_strategy(session, NOW - timedelta(days=1))}


def test_jobs_are_counted_under_the_strategy_of_their_last_attempt() -> None:
    add(3, cost_nano=10)
    add(1, job="moved", state=AttemptState.FAILED, job_state=JobState.SUCCEEDED, strategy="balanced", cost_nano=50)
    add(1, job="moved", number=2, strategy="legacy", reason="fallback_after_http_500")
    add(1, state=AttemptState.FAILED, cost_nano=2)
    add(1, state=AttemptState.CALLING, job_state=JobState.RUNNING)
    add(1, minutes_ago=60 * 25)
    found = strategies()
    assert set(found) == {("balanced", "parse"), ("legacy", "parse")}
    one, other = found["balanced", "parse"], found["legacy", "parse"]
    assert (one.jobs, one.succeeded, one.cost, one.fallbacks, one.quality, one.p95_ms) == (4, 3, 32, 0, 0.5, 100)
    assert (other.jobs, other.succeeded, other.cost, other.fallbacks) == (1, 1, 50, 1)
