"""Runs that end beside the call: before it, without SQL, without a ledger, or because the job is over already."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from db import jobs
from db.models import AttemptState, Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from selection.registry import Model
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    allow_daily,
    attempts,
    die_during_the_call,
    end_all_leases,
    rows_total,
    run,
    run_to_the_end,
    spent_and_reserved,
    still_mine_then_lose_it,
    submit,
)
from tests.worker.recorder import ANSWER, Recorder
from worker.attempt import run_attempt
from worker.errors import JobFailed, NotOurs, RunAgain, UnknownJob
from worker.kind import ChatRequest, Request
from worker.run import run_job
from worker.shutdown import SHUTDOWN, stopping
from worker.sweeper import _end_overdue

pytestmark = pytest.mark.xdist_group("litellm")


@pytest.fixture
def _stops() -> Iterator[None]:
    """The worker of this process may be stopped, and is not any more afterwards."""
    yield
    stopping.clear()


def job(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


@pytest.mark.usefixtures("_stops")
def test_a_worker_that_is_stopped_takes_no_job(simulator: Simulator) -> None:
    job_id = submit()
    stopping.set()
    with pytest.raises(RunAgain, match=SHUTDOWN):
        run(job_id)
    assert (job(job_id).state, job(job_id).runs) == (JobState.QUEUED, 0)


@pytest.mark.usefixtures("_stops")
def test_a_job_whose_worker_is_stopped_before_its_next_call_is_handed_back(simulator: Simulator) -> None:
    class Stopping(Parse):
        def requests(self, payload: Any, model: Model) -> list[Request]:
            stopping.set()
            return super().requests(payload, model)

    job_id = submit()
    with pytest.raises(RunAgain, match=SHUTDOWN):
        run(job_id, Stopping())
    assert job(job_id).state == JobState.WAITING
    assert (attempts(), spent_and_reserved(), simulator.requests()) == ([], (0, 0), 0)


def test_a_runner_that_lost_its_job_does_not_say_that_it_failed(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalled(*arguments: Any, **options: Any) -> Any:
        # its lease ends, another runner has the job, and there is no room for a second call
        with write() as session:
            session.get_one(Job, job_id).runner = "another"
        allow_daily("0.0000001")
        return run_attempt(*arguments, **options)

    job_id = submit()
    monkeypatch.setattr("worker.one_run.run_attempt", stalled)
    with pytest.raises(NotOurs):
        run(job_id)
    assert (job(job_id).state, job(job_id).runner, job(job_id).error) == (JobState.RUNNING, "another", None)


def test_without_sql_no_job_is_taken(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit()
    with monkeypatch.context() as patched:
        patched.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        once_per_environment.forget_all()
        with pytest.raises(RunAgain, match="the database is away: OperationalError"):
            run(job_id)
    once_per_environment.forget_all()
    assert job(job_id).runs == simulator.requests() == 0


def test_a_message_of_no_job_is_named(simulator: Simulator) -> None:
    with pytest.raises(UnknownJob, match="there is no job nobody's"):
        run("nobody's")


def test_a_message_of_a_failed_or_pruned_job_brings_its_sentence(simulator: Simulator) -> None:
    failed, pruned = submit(), submit()
    run(pruned)
    with write() as session:
        row = session.get_one(Job, failed)
        row.state, row.error, row.error_code = JobState.FAILED, "No room.", "budget"
        session.get_one(Job, pruned).pruned_at = utc_now()
    for job_id, code, sentence in ((failed, "budget", r"^No room\.$"), (pruned, "pruned", pruned)):
        with pytest.raises(JobFailed, match=sentence) as told:
            run(job_id)
        assert told.value.code == code
    assert simulator.requests() == 1


def test_progress_that_cannot_be_told_ends_no_job(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    def away(done: int, total: int) -> None:
        raise ConnectionError("sentinel")

    job_id = submit(Embed(), texts=[f"text {number}" for number in range(2050)])
    assert len(run_job(Embed(), job_id, away)) == 2050
    assert caplog.text.count("progress could not be told: ConnectionError") == 2
    assert "sentinel" not in caplog.text


def test_a_job_that_is_lost_right_after_its_claim_is_let_go_with_its_calls(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    monkeypatch.setattr(jobs, "still_mine", still_mine_then_lose_it(job_id))
    with pytest.raises(NotOurs):
        run(job_id)
    assert [attempt.state for attempt in attempts()] == [AttemptState.CALLING], "it is the other runner's to close"


def test_a_request_that_cannot_be_encoded_ends_the_job_and_no_other_model_is_asked(simulator: Simulator) -> None:
    class Unencodable(Parse):
        def requests(self, payload: Any, model: Model) -> list[Request]:
            (request,) = super().requests(payload, model)
            assert isinstance(request, ChatRequest)
            return [ChatRequest(request.system, "half \ud800", request.schema_name, request.schema,
                                temperature=0.1, max_tokens=10)]  # fmt: skip

    job_id = submit()
    with pytest.raises(JobFailed, match="could not be encoded") as failed:
        run(job_id, Unencodable())
    assert failed.value.code == "not_sent"
    assert [attempt.state for attempt in attempts()] == [AttemptState.FAILED]
    assert (spent_and_reserved(), simulator.requests()) == ((0, 0), 0)


def test_a_lost_call_that_is_found_without_a_ledger_is_charged_later(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = submit()
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    with monkeypatch.context() as patched:
        patched.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        once_per_environment.forget_all()
        with pytest.raises(RunAgain):
            run(job_id)
    once_per_environment.forget_all()
    (lost,) = attempts()
    assert lost.state == AttemptState.UNKNOWN
    assert f"attempt {lost.id} is settled later" in caplog.text
    assert spent_and_reserved() == (0, lost.reserved_nano)
    end_all_leases()
    assert _end_overdue() == 1
    assert spent_and_reserved() == (lost.reserved_nano, 0)
    run_to_the_end(job_id)
    assert spent_and_reserved() == (lost.reserved_nano + simulator.bill(), 0)


def test_a_call_that_costs_more_than_its_worst_case_is_charged_in_full_and_told(
    simulator: Simulator, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", f"{recorder.url}/v1")
    usage = {"prompt_tokens": 5, "completion_tokens": 500_000, "total_tokens": 500_005}
    recorder.body = json.dumps({**ANSWER, "usage": usage}).encode()
    with pytest.raises((RunAgain, JobFailed)):
        run(submit(job_description="short"))
    (attempt,) = attempts()
    assert attempt.cost_nano > attempt.reserved_nano
    assert f"overrun: attempt {attempt.id} cost {attempt.cost_nano} nano-USD" in caplog.text
    assert spent_and_reserved() == (rows_total(), 0)
