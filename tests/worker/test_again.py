"""The same job twice: by its idempotency key, by hand, and by a worker that it ends each time."""

from datetime import timedelta
from typing import Any

import pytest

from budget.compare import differences
from budget.ledger import ledger
from db.changes import latest
from db.models import AttemptState, Job, JobState, utc_now
from db.session import read, write
from tasks import parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    POSTING,
    attempts,
    die_during_the_call,
    rebuild,
    rows_total,
    run,
    run_to_the_end,
    spent_and_reserved,
    submit,
)
from worker.again import NotOver, run_again
from worker.errors import InvalidJob, JobFailed
from worker.sweeper import _free_orphans

pytestmark = pytest.mark.xdist_group("litellm")


def end_lease(job_id: str) -> None:
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)


def job(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


def test_a_job_that_ends_its_worker_each_time_is_given_up_and_keeps_its_history(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_LOST_RUNS", "3")
    job_id = submit()
    for turn in range(3):
        die_during_the_call(job_id)
        end_lease(job_id)
        if turn % 2:  # found by the sweeper, or by whoever gets the message again
            assert [orphan.id for orphan in _free_orphans()] == [job_id]
    with pytest.raises(JobFailed, match="given up after its worker was lost 3 times") as failed:
        run(job_id)
    assert failed.value.code == "poison"
    assert job(job_id).state == JobState.FAILED
    assert [attempt.state for attempt in attempts()] == [AttemptState.UNKNOWN] * 3
    assert spent_and_reserved() == (rows_total(), 0)


def test_a_failed_job_runs_again_by_hand_with_its_history_and_its_cost(simulator: Simulator, published: Any) -> None:
    simulator.fault(fault="malformed")
    job_id = submit(job_description=POSTING, strategy="experimental")
    with pytest.raises(JobFailed):
        run_to_the_end(job_id)
    before = len(attempts())
    spent = rows_total()
    assert spent > 0
    simulator.reset()
    ledger().client.flushall()
    rebuild(ledger())
    run_again(published.app, job_id, "ann@desk")
    assert published.messages[-1][1] == job_id
    run(job_id)
    assert len(attempts()) == before + 1
    assert job(job_id).total_cost_nano == rows_total() == spent + simulator.bill()
    assert differences(ledger()) == []
    with read() as session:
        assert [(c.what, c.subject, c.before, c.who) for c in latest(session, 9)] == [
            ("retry", job_id, "failed", "ann@desk")
        ]


def test_its_cap_holds_over_all_its_lives(simulator: Simulator, published: Any) -> None:
    simulator.fault(fault="malformed")
    job_id = submit(job_description=POSTING, strategy="cost_optimized", model="claude-sonnet-4-20250514")
    for _ in range(4):
        with pytest.raises(JobFailed):
            run_to_the_end(job_id)
        ledger().client.flushall()
        rebuild(ledger())
        run_again(published.app, job_id, "ann@desk")
    assert rows_total() <= 50_000_000


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SUCCEEDED, JobState.RUNNING])
def test_only_a_job_that_is_over_without_success_runs_again(
    simulator: Simulator, published: Any, state: JobState
) -> None:  # fmt: skip
    job_id = submit()
    with write() as session:
        session.get_one(Job, job_id).state = state
    with pytest.raises(NotOver, match=f"is {state}; only a failed or cancelled one"):
        run_again(published.app, job_id, "ann@desk")
    assert published.messages == []


def test_the_same_key_brings_the_same_job_and_publishes_nothing(simulator: Simulator, published: Any) -> None:
    fields = {"job_description": POSTING, "user_id": 3, "idempotency_key": "order 17"}
    first = parse.delay(**fields)
    again = parse.delay(**fields)
    assert again.id == first.id
    assert len(published.messages) == 1
    assert parse.delay(**{**fields, "idempotency_key": "order 18"}).id != first.id


def test_the_same_key_with_another_input_is_refused_and_names_both(simulator: Simulator, published: Any) -> None:
    first = parse.delay(job_description=POSTING, idempotency_key="order 17")
    for other in ({"job_description": "Another."}, {"job_description": POSTING, "api": "keywords"}):
        with pytest.raises(InvalidJob, match=f"field idempotency_key: job {first.id} has this key and another input"):
            parse.delay(**other, idempotency_key="order 17")
    with pytest.raises(InvalidJob, match="cannot get another task id"):
        parse.apply_async(kwargs={"job_description": POSTING, "idempotency_key": "order 17"}, task_id="mine")
    assert len(published.messages) == 1


def test_a_key_belongs_to_its_user(simulator: Simulator, published: Any) -> None:
    jobs = [
        parse.delay(job_description=POSTING, idempotency_key="order 17", **user).id
        for _ in range(2)
        for user in ({}, {"user_id": 3}, {"user_id": 4})
    ]
    assert jobs[:3] == jobs[3:]
    assert len(set(jobs)) == len(published.messages) == 3


@pytest.mark.parametrize("key", ["", "x" * 129, "a\nb", 5])
def test_a_bad_key_names_its_field(simulator: Simulator, published: Any, key: Any) -> None:
    with pytest.raises(InvalidJob, match="field idempotency_key"):
        parse.delay(job_description=POSTING, idempotency_key=key)
