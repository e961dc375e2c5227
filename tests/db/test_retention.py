"""Old prompts and results go; figures, and jobs that are not over, stay."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

import db.retention
from db import jobs
from db.models import Alert, Attempt, AttemptState, CostBasis, DailyCost, Delivery, Job, JobState, JobVectors, utc_now
from db.retention import prunable, prune, prune_alerts
from db.rollup import roll_up_day
from db.session import engine, read, write

pytestmark = pytest.mark.usefixtures("environment")

SECRET = "We look for a baker who keeps secrets"
FINAL = [state for state in JobState if state.final]
TOKENS = ("tokens_used", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


def add(job_id: str, state: JobState, *, ended_days_ago: float | None = 40, **columns: Any) -> None:
    ended = None if ended_days_ago is None else utc_now() - timedelta(days=ended_days_ago)
    with write() as session:
        session.add(
            Job(
                id=job_id, kind="parse", state=state, queue="parse", payload={"job_description": SECRET},
                result={"raw_job_description": SECRET}, error=SECRET, error_code="attempts", finished_at=ended,
                model_metadata={"model_used": "m"}, total_cost_nano=7, user_id="42",
                created_at=utc_now() - timedelta(days=50), **columns,
            )
        )  # fmt: skip
        session.flush()
        session.add(JobVectors(job_id=job_id, part=0, dimensions=1, count=1, vectors=b"1234"))
        session.add(
            Attempt(
                id=f"a-{job_id}", job_id=job_id, number=1, state=AttemptState.FAILED, model_name="m", provider="p",
                task_type="parse", strategy="s", reason="r", budget_day="2026-11-01", budget_month="2026-11",
                reserved_nano=9, cost_nano=7, cost_basis=CostBasis.USAGE, error=SECRET, error_code="timeout",
                user_id="42", settled_at=ended, **dict.fromkeys(TOKENS, 1),
            )
        )  # fmt: skip


def whole() -> set[str]:
    """The jobs that have everything still."""
    with read() as session:
        kept = {job.id for job in session.scalars(select(Job)) if job.payload and job.result and job.error}
        vectors = set(session.scalars(select(JobVectors.job_id)))
        errors = {a.job_id for a in session.scalars(select(Attempt)) if a.error}
    assert kept == vectors == errors
    return kept


def test_only_jobs_that_ended_long_ago_are_emptied() -> None:
    for state in JobState:
        add(f"old-{state}", state, ended_days_ago=40 if state.final else None)
        add(f"young-{state}", state, ended_days_ago=20 if state.final else None)
    # as if a job that is not over had a time at which it ended
    add("odd", JobState.RUNNING, ended_days_ago=40)
    everything = whole()
    assert prunable(30) == (len(FINAL), 0)
    assert whole() == everything
    assert prune(30) == len(FINAL)
    assert everything - whole() == {f"old-{state}" for state in FINAL}
    assert (prunable(30), prune(30)) == ((0, 0), 0)


def test_what_was_paid_and_for_whom_stays() -> None:
    add("j", JobState.FAILED, idempotency_key="k")
    with write() as session:
        roll_up_day(session, "2026-11-01")
    prune(30)
    with read() as session:
        job, attempt = session.get_one(Job, "j"), session.get_one(Attempt, "a-j")
        assert (job.state, job.total_cost_nano, job.user_id, job.error_code) == ("failed", 7, "42", "attempts")
        assert (job.payload, job.result, job.error, job.model_metadata) == ({}, None, None, {"model_used": "m"})
        assert (attempt.cost_nano, attempt.reserved_nano, attempt.error_code, attempt.error) == (7, 9, "timeout", None)
        assert session.scalar(select(func.sum(DailyCost.total_cost_nano))) == 7
        rows = [session.execute(select(*table.__table__.c)).all() for table in (Job, Attempt)]
        assert SECRET not in str(rows)
        assert jobs.by_idempotency_key(session, "42", "k") is job
    with write() as session:
        assert not jobs.start_again(session, "j")


def test_it_goes_in_batches_each_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        add(f"j{number}", JobState.SUCCEEDED)
    monkeypatch.setattr(db.retention, "BATCH", 3)
    commits = []

    def note(_: Any) -> None:
        commits.append(len(commits))

    event.listen(engine(), "commit", note)
    assert prune(30) == 7
    event.remove(engine(), "commit", note)
    assert len(commits) == 4
    assert whole() == set()


def test_many_at_once_take_each_job_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        add(f"j{number}", JobState.SUCCEEDED)
    monkeypatch.setattr(db.retention, "BATCH", 2)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(prune, [30] * 4)) == 12
    assert whole() == set()


def test_a_job_that_somebody_holds_keeps_nobody_waiting() -> None:
    if engine().dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all")
    for number in range(3):
        add(f"j{number}", JobState.FAILED)
    with write() as session:
        assert jobs.start_again(session, "j1")
        session.flush()
        assert prune(30) == 2
    with read() as session:
        again = session.get_one(Job, "j1")
        assert (again.state, again.payload) == ("queued", {"job_description": SECRET})


def test_alerts_that_are_long_over_go_with_their_deliveries() -> None:
    for number, cleared_days_ago in enumerate((40, 20, None), start=1):
        ended = None if cleared_days_ago is None else utc_now() - timedelta(days=cleared_days_ago)
        key = {"kind": "budget", "subject": "daily", "period": f"2026-11-{number:02}", "threshold": "0.8"}
        with write() as session:
            session.add(
                Alert(id=number, message="m", created_at=utc_now() - timedelta(days=50), cleared_at=ended, **key)
            )
            session.flush()
            session.add(Delivery(alert_id=number, channel="log"))
    assert prunable(30) == (0, 1)
    assert prune_alerts(30) == 1
    with read() as session:
        assert [*session.scalars(select(Alert.id).order_by(Alert.id))] == [2, 3]
        assert {*session.scalars(select(Delivery.alert_id))} == {2, 3}
    assert prune_alerts(30) == 0
