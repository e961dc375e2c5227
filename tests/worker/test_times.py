"""What each attempt measures, where it is kept, and its line in the log."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

import worker.attempt
from budget.errors import LedgerDown
from budget.ledger import ledger
from db import jobs
from db.environment import SettingsError, read_settings
from db.models import Attempt, Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from db.statistics import by_strategy
from selection.registry import load_registry
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, attempts, die_during_the_call, run, run_to_the_end, submit
from worker.errors import RunAgain
from worker.settings import WorkerSettings

pytestmark = pytest.mark.xdist_group("litellm")
HOUR_MS = 3_600_000


def waits_since(job_id: str, hours: float) -> None:
    """As if the job had been waiting for so long."""
    with write() as session:
        job = session.get_one(Job, job_id)
        moment = utc_now() - timedelta(hours=hours)
        if job.runs == 0:
            job.created_at = moment
        else:
            job.waiting_since = moment


def near(milliseconds: int | None, hours: float) -> bool:
    """Whether it is that many hours, and the minutes that a slow machine may add."""
    assert milliseconds is not None
    return hours * HOUR_MS <= milliseconds < (hours + 0.1) * HOUR_MS


def test_a_job_has_waited_since_it_was_submitted(simulator: Simulator) -> None:
    job_id = submit()
    waits_since(job_id, 2)
    run(job_id)
    (attempt,) = attempts()
    assert near(attempt.queue_time_ms, 2)


def test_our_own_time_is_what_passes_between_the_claim_and_the_request(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Parse.requests

    def slow(self: Parse, *args: Any) -> Any:
        nonlocal added
        added += 60
        return original(self, *args)

    added = 0
    real = worker.attempt.time.monotonic
    monkeypatch.setattr(Parse, "requests", slow)
    monkeypatch.setattr(worker.attempt, "time", type("Clock", (), {"monotonic": staticmethod(lambda: real() + added)}))
    run(submit())
    (attempt,) = attempts()
    assert attempt.overhead_ms is not None and attempt.processing_time_ms is not None
    assert 60_000 <= attempt.overhead_ms < 160_000
    assert attempt.processing_time_ms < 60_000


def test_a_job_that_was_handed_back_waits_from_then_on(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=500, first=1)
    job_id = submit()
    waits_since(job_id, 5)
    with pytest.raises(RunAgain):
        run(job_id)
    waits_since(job_id, 1)
    run_to_the_end(job_id)
    first, second = attempts()
    assert near(first.queue_time_ms, 5) and near(second.queue_time_ms, 1)
    assert first.overhead_ms is not None and first.processing_time_ms is not None


def test_a_run_without_an_attempt_ends_the_waiting_all_the_same(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any, **__: Any) -> Any:
        raise LedgerDown("away")

    job_id = submit()
    waits_since(job_id, 5)
    with monkeypatch.context() as patched:
        patched.setattr(ledger(), "reserve", down)
        with pytest.raises(RunAgain):
            run(job_id)
    run_to_the_end(job_id)
    (attempt,) = attempts()
    assert attempt.queue_time_ms is not None and attempt.queue_time_ms < HOUR_MS


def test_a_job_whose_worker_was_lost_waits_from_the_end_of_its_lease(simulator: Simulator) -> None:
    job_id = submit()
    waits_since(job_id, 9)
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(hours=3)
    run_to_the_end(job_id)
    lost, second = attempts()
    assert near(lost.queue_time_ms, 9) and near(second.queue_time_ms, 3)
    assert (lost.overhead_ms, lost.processing_time_ms) == (None, None)


def test_a_job_that_is_started_again_by_hand_waits_from_then_on(simulator: Simulator) -> None:
    job_id = submit()
    with write() as session:
        job = session.get_one(Job, job_id)
        job.state, job.created_at = JobState.FAILED, utc_now() - timedelta(hours=9)
    with write() as session:
        assert jobs.start_again(session, job_id)
    run(job_id)
    assert (attempts()[0].queue_time_ms or 0) < HOUR_MS


def test_a_clock_that_is_ahead_makes_no_negative_time(simulator: Simulator) -> None:
    job_id = submit()
    waits_since(job_id, -1)
    run(job_id)
    assert attempts()[0].queue_time_ms == 0


def test_the_later_parts_of_a_run_have_not_waited(simulator: Simulator) -> None:
    many = load_registry().providers["openai"].texts_per_request
    job_id = submit(Embed(), texts=["bread"] * (many + 1))
    waits_since(job_id, 2)
    run(job_id, Embed())
    first, second = attempts()
    assert near(first.queue_time_ms, 2)
    assert second.queue_time_ms == 0 and (second.overhead_ms or 0) < HOUR_MS


def test_a_job_of_three_attempts_is_one_job(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=500, first=2)
    run_to_the_end(submit())
    assert len(attempts()) == 3
    with read() as session:
        (row,) = by_strategy(session, utc_now() - timedelta(days=1))
    assert (row.jobs, row.succeeded) == (1, 1)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message.startswith("performance: ")]


@pytest.mark.parametrize(("value", "level"), [(None, 20), ("WARNING", 30), (" debug ", 10)])
def test_each_attempt_is_one_line_of_the_log_without_a_word_of_the_job(
    simulator: Simulator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    level: int,
) -> None:
    if value is not None:
        monkeypatch.setenv("MODEL_PERFORMANCE_LOG_LEVEL", value)
        once_per_environment.forget_all()
    simulator.fault(fault="status", status=500, first=1)
    job_id = submit()
    costs = []
    caplog.handler.addFilter(lambda _: not costs.append(get_contextvars().get("cost_nano")))
    with caplog.at_level(logging.DEBUG, logger="worker.closing"):
        run_to_the_end(job_id)
    found = lines(caplog)
    assert [costs[caplog.records.index(record)] for record in found] == [0, attempts()[1].cost_nano]
    assert [record.levelno for record in found] == [level, level]
    failed, done = (record.message for record in found)
    first, second = attempts()
    assert f"job {job_id} attempt 1 part 0 parse {first.model_name}: failed ({first.error_code})" in failed
    assert f"attempt 2 part 0 parse {second.model_name}: succeeded, waited {second.queue_time_ms} ms" in done
    for figure in (f"overhead {second.overhead_ms} ms", f"provider {second.processing_time_ms} ms",
                   f"{second.tokens_used} tokens", f"{second.cost_nano / 10**9:.9f} USD"):  # fmt: skip
        assert figure in done
    assert not any(word in failed + done for word in set(POSTING.split()) - {"for", "a", "and"} if len(word) > 3)


def test_without_tracking_money_is_written_and_no_figure_is_kept_or_logged(
    simulator: Simulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACK_MODEL_PERFORMANCE", "false")
    once_per_environment.forget_all()
    with caplog.at_level(logging.DEBUG):
        run(submit())
    (attempt,) = attempts()
    figures = ("queue_time_ms", "overhead_ms", "processing_time_ms", "quality_score")
    assert [getattr(attempt, name) for name in figures] == [None] * 4
    assert attempt.cost_nano == simulator.bill() > 0 and attempt.tokens_used > 0 and attempt.reserved_nano > 0
    assert lines(caplog) == []


@pytest.mark.parametrize("value", ["", "loud", "15", "WARN ING"])
def test_a_level_that_is_none_is_refused_in_one_sentence(
    environment: None, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MODEL_PERFORMANCE_LOG_LEVEL", value)
    once_per_environment.forget_all()
    with pytest.raises(SettingsError) as refused:
        read_settings(WorkerSettings)
    assert str(refused.value) == (
        f"MODEL_PERFORMANCE_LOG_LEVEL: {value!r} is no level; give one of DEBUG, INFO, WARNING, ERROR, CRITICAL"
    )


def test_the_row_of_an_attempt_holds_all_that_was_asked_for() -> None:
    asked = {
        "model_name", "task_type", "processing_time_ms", "tokens_used", "cost_usd", "quality_score", "success",
        "created_at", "job_id", "number", "user_id", "api", "strategy", "reason", "provider", "input_tokens",
        "output_tokens", "cached_tokens", "reasoning_tokens", "reserved_nano", "cost_nano", "error_class",
        "queue_time_ms", "overhead_ms",
    }  # fmt: skip
    assert asked <= set(Attempt.__table__.columns.keys())
