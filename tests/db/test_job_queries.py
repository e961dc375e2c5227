"""Queries on jobs: one runner at a time, leases that end, and what the sweeper finds."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from db import jobs
from db.models import Attempt, AttemptState, Job, JobState, utc_now
from db.session import read, write

pytestmark = pytest.mark.usefixtures("environment")
FINAL = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]


def add(job_id: str = "j", **columns: Any) -> None:
    with write() as session:
        session.add(Job(**{"id": job_id, "kind": "parse", "queue": "parse", "payload": {}, **columns}))


def add_attempt(number: int, job_id: str = "j", **columns: Any) -> None:
    row: dict[str, Any] = {
        "id": f"{job_id}-{number}", "job_id": job_id, "number": number, "model_name": "m", "provider": "p",
        "task_type": "parse", "strategy": "s", "reason": "r", "budget_day": "2026-11-22", "budget_month": "2026-11",
        "reserved_nano": 100, **columns,
    }  # fmt: skip
    with write() as session:
        session.add(Attempt(**row))


def get(job_id: str = "j") -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


def claim(runner: str, job_id: str = "j") -> bool:
    with write() as session:
        return jobs.claim(session, job_id, runner) is not None


def end_lease(job_id: str = "j") -> None:
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)


def test_a_claimed_job_runs_under_a_lease() -> None:
    add(state=JobState.WAITING)
    assert claim("r1")
    job = get()
    assert (job.state, job.runner) == (JobState.RUNNING, "r1")
    assert job.started_at is not None and job.lease_until is not None
    assert 0 < (job.lease_until - utc_now()).total_seconds() <= jobs.LEASE_S


def test_of_two_runners_the_first_gets_the_job() -> None:
    add()
    assert claim("r1")
    assert not claim("r2")
    assert not claim("r1")
    assert get().runner == "r1"


def test_of_16_runners_at_once_exactly_one_gets_the_job() -> None:
    add()
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda number: claim(f"r{number}"), range(16)))
    assert sum(got) == 1
    assert get().runner == f"r{got.index(True)}"


def test_an_expired_lease_can_be_taken_and_the_old_runner_is_fenced_off() -> None:
    add()
    claim("r1")
    started = get().started_at
    end_lease()
    assert claim("r2")
    with write() as session:
        assert not jobs.still_mine(session, "j", "r1")
        assert jobs.still_mine(session, "j", "r2")
        jobs.hand_back(session, "j", "r1", due_in_s=0)
    assert (get().state, get().runner) == (JobState.RUNNING, "r2")
    assert get().started_at == started


def test_a_claim_brings_what_the_runner_needs_and_counts_the_runs() -> None:
    add(payload={"job_description": "x"}, user_id="7", api="keywords")
    for run in (1, 2):
        with write() as session:
            found = jobs.claim(session, "j", f"r{run}")
        assert found is not None
        assert (found.id, found.payload, found.runs) == ("j", {"job_description": "x"}, run)
        assert (found.user_id, found.api, found.started_at) == ("7", "keywords", get().started_at)
        end_lease()


@pytest.mark.parametrize("state", FINAL)
def test_a_final_job_is_nobodys(state: JobState) -> None:
    add(state=state)
    assert not claim("r1")
    with write() as session:
        assert not jobs.cancel(session, "j")
        jobs.fail(session, "j", "r1", "late", "too late")
    assert (get().state, get().error) == (state, None)


def test_an_unknown_job_is_nobodys() -> None:
    assert not claim("r1", "nothing")
    with write() as session:
        assert not jobs.still_mine(session, "nothing", "r1")
        assert not jobs.cancel(session, "nothing")


def test_asking_whether_a_job_is_ones_own_renews_its_lease() -> None:
    add()
    claim("r1")
    end_lease()
    with write() as session:
        assert jobs.still_mine(session, "j", "r1")
    assert (get().lease_until or utc_now()) > utc_now() + timedelta(seconds=jobs.LEASE_S - 5)


def test_a_living_runner_keeps_those_of_its_jobs_that_it_names() -> None:
    for job_id, runner in (("a", "r1"), ("b", "r1"), ("c", "r2"), ("over", "r1")):
        add(job_id)
        claim(runner, job_id)
        end_lease(job_id)
    with write() as session:
        jobs.renew_leases(session, {})
        jobs.renew_leases(session, {"r1": "a", "r3": "b", "r4": "nothing"})
        assert {job.id for job in jobs.orphaned(session, utc_now())} == {"b", "c", "over"}


def test_a_job_that_is_handed_back_waits_without_a_runner_and_can_be_claimed() -> None:
    add()
    claim("r1")
    with write() as session:
        jobs.hand_back(session, "j", "r1", due_in_s=30)
    job = get()
    assert (job.state, job.runner, job.lease_until) == (JobState.WAITING, None, None)
    assert job.due_at is not None
    assert -5 < (job.due_at - utc_now()).total_seconds() - 30 - jobs.CLAIM_WITHIN_S <= 0
    assert claim("r2")


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.WAITING])
def test_a_job_that_nobody_runs_can_be_cancelled(state: JobState) -> None:
    add(state=state)
    with write() as session:
        assert jobs.cancel(session, "j")
    assert (get().state, get().error) == (JobState.CANCELLED, "cancelled before it ran")
    assert get().finished_at is not None
    assert not claim("r1")


def test_a_running_job_cannot_be_cancelled() -> None:
    add()
    claim("r1")
    with write() as session:
        assert not jobs.cancel(session, "j")
    assert get().state == JobState.RUNNING


def test_a_job_that_succeeded_keeps_result_metadata_and_cost() -> None:
    add(error="an earlier failure", error_code="timeout")
    add_attempt(1, cost_nano=123_456_789_000, state=AttemptState.UNKNOWN)
    add_attempt(2, cost_nano=12, state=AttemptState.SUCCEEDED)
    claim("r1")
    with write() as session:
        outcome = {
            "result": {"a": None}, "model_metadata": {"model_used": "m"}, "model_selection_strategy": "balanced",
        }  # fmt: skip
        jobs.succeed(session, "j", outcome)
    job = get()
    assert (job.state, job.result) == (JobState.SUCCEEDED, {"a": None})
    assert job.model_metadata == {"model_used": "m", "cost_usd": 123.456789012}
    assert (job.model_selection_strategy, job.total_cost_usd) == ("balanced", Decimal("123.456789012"))
    assert (job.runner, job.lease_until, job.due_at, job.error, job.error_code) == (None,) * 5


def test_a_job_that_failed_says_why_and_costs_what_its_attempts_cost() -> None:
    add()
    add_attempt(1, cost_nano=5, state=AttemptState.UNKNOWN)
    add_attempt(2, cost_nano=7, state=AttemptState.FAILED)
    with write() as session:
        jobs.claim(session, "j", "r1")
        jobs.fail(session, "j", "another", "no", "Not mine to say.")
        jobs.fail(session, "j", "r1", "budget", "No room.")
    job = get()
    assert (job.state, job.error_code, job.error, job.total_cost_nano) == (JobState.FAILED, "budget", "No room.", 12)


def test_orphans_are_running_jobs_whose_lease_has_ended() -> None:
    now = utc_now()
    past, future = now - timedelta(seconds=1), now + timedelta(seconds=60)
    for job_id, state, lease in (("dead", JobState.RUNNING, past), ("alive", JobState.RUNNING, future),
                                 ("done", JobState.SUCCEEDED, past), ("queued", JobState.QUEUED, None)):  # fmt: skip
        add(job_id, state=state, lease_until=lease, runner="r")
    with read() as session:
        assert [job.id for job in jobs.orphaned(session, now)] == ["dead"]


def test_overdue_are_jobs_that_nobody_claimed_in_time_oldest_first() -> None:
    now = utc_now()
    for job_id, state, late in (("b", JobState.QUEUED, 5), ("a", JobState.WAITING, 9), ("soon", JobState.QUEUED, -5),
                                ("running", JobState.RUNNING, 9), ("done", JobState.CANCELLED, 9)):  # fmt: skip
        add(job_id, state=state, due_at=now - timedelta(seconds=late))
    with read() as session:
        assert [job.id for job in jobs.overdue(session, now)] == ["a", "b"]
        assert [job.id for job in jobs.overdue(session, now, limit=1)] == ["a"]


def test_attempts_of_a_dead_runner_are_charged_at_their_reservations() -> None:
    add()
    add("other")
    add_attempt(1, cost_nano=7, state=AttemptState.FAILED)
    add_attempt(2, reserved_nano=900)
    add_attempt(1, job_id="other")
    with write() as session:
        assert [attempt.id for attempt in jobs.close_abandoned(session, "j")] == ["j-2"]
    with read() as session:
        found = {a.id: (a.state, a.cost_nano, a.success) for a in session.scalars(select(Attempt))}
        assert jobs.cost_of(session, "j") == 907
        assert [attempt.number for attempt in jobs.attempts_of(session, "j")] == [1, 2]
    assert found == {"j-1": ("failed", 7, None), "j-2": ("unknown", 900, False), "other-1": ("calling", 0, None)}


def test_two_runners_cannot_record_the_same_attempt_of_a_job() -> None:
    add()
    add_attempt(1)
    with pytest.raises(IntegrityError):
        add_attempt(1, id="another")


NANO = [0, 1, 20, 999_999_999, 10**9, 10**9 + 1, 123_456_789_012_345, 8 * 10**15 + 1]


@pytest.mark.parametrize("nano", NANO)
def test_the_column_in_usd_is_the_nano_dollars_to_the_last_digit(nano: int) -> None:
    add(total_cost_nano=nano)
    add_attempt(1, cost_nano=nano)
    usd = Decimal(nano) / 10**9
    with read() as session:
        assert session.get_one(Job, "j").total_cost_usd == usd
        assert session.get_one(Attempt, "j-1").cost_usd == usd
    with write() as session:
        session.execute(text("UPDATE model_performance_metrics SET cost_nano = 20"))
    with read() as session:
        assert session.scalar(select(Attempt.cost_usd)) == Decimal("0.00000002")


@pytest.mark.parametrize("prefix", ["j", "j%", "_", "abc"])
def test_a_job_is_found_by_the_start_of_its_id_literally(prefix: str) -> None:
    for job_id in ("j", "j1", "abcdef", "j%x"):
        add(job_id)
    with read() as session:
        found = [job.id for job in jobs.by_prefix(session, prefix)]
    assert found == {"j": ["j"], "j%": ["j%x"], "_": [], "abc": ["abcdef"]}[prefix]


def test_the_latest_jobs_come_first_and_filters_are_all_meant() -> None:
    for number in range(3):
        add(f"j{number}", user_id=str(number % 2), created_at=utc_now() - timedelta(minutes=number))
    with read() as session:
        assert [job.id for job in jobs.find(session)] == ["j0", "j1", "j2"]
        assert [job.id for job in jobs.find(session, user_id="0", state="queued", limit=5)] == ["j0", "j2"]
        assert jobs.find(session, user_id="0", kind="embed") == []


def test_moments_come_back_in_utc_whatever_zone_they_were_in() -> None:
    moment = datetime(2026, 3, 29, 3, 30, tzinfo=timezone(timedelta(hours=2)))
    add(created_at=moment)
    assert get().created_at == moment
    assert get().created_at.tzinfo is UTC
