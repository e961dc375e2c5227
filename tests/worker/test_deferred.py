"""Jobs that wait for a budget: parked in SQL, released in order as soon as there is room, and never lost."""

from datetime import timedelta
from typing import Any

import pytest

from budget.ledger import ledger
from budget.limits import set_limit
from budget.money import usd_to_nano
from db.jobs import cancel, claim
from db.models import Job, JobState, utc_now
from db.session import read, write
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, allow_daily, attempts, run, run_to_the_end, spent_and_reserved, submit
from worker.errors import Deferred, JobFailed
from worker.sweeper import PATIENCE_S, _release_deferred

pytestmark = pytest.mark.xdist_group("litellm")


def park(user_id: int | None = None, **fields: Any) -> str:
    """A job that found no room."""
    job_id = submit(job_description=POSTING, on_budget="defer", user_id=user_id, **fields)
    with pytest.raises(Deferred):
        run(job_id)
    return job_id


def job(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


def fill_the_day() -> tuple[str, tuple[str, ...]]:
    """Reserve all but a little of the day's budget."""
    day = ledger().usage()[0]
    assert day.left is not None
    held = ledger().reserve("rest", day.left - 1000, job_id="x", user_id=None, job_cap=None, lease_s=600)
    return "rest", held.scope_keys


def test_a_deferred_job_costs_nothing_and_says_why_and_until_when(simulator: Simulator) -> None:
    fill_the_day()
    parked = job(park())
    assert (parked.state, parked.error_code, parked.runner) == (JobState.DEFERRED, "budget", None)
    assert parked.error is not None and "does not fit in what is left of the daily budget" in parked.error
    assert parked.due_at is not None and utc_now() < parked.due_at <= utc_now() + timedelta(days=1)
    assert parked.needed_nano is not None and parked.needed_nano > 1000
    assert simulator.requests() == 0
    assert attempts() == []


def test_it_is_not_downgraded_meanwhile(simulator: Simulator) -> None:
    allow_daily("0.02")
    ledger().reserve("rest", usd_to_nano("0.015"), job_id="x", user_id=None, job_cap=None, lease_s=600)
    park()
    assert simulator.requests() == 0


def test_it_goes_on_as_soon_as_there_is_room_and_then_succeeds(simulator: Simulator) -> None:
    held = fill_the_day()
    job_id = park()
    assert _release_deferred() == []
    ledger().release(*held)
    assert [found.id for found in _release_deferred()] == [job_id]
    released = job(job_id)
    assert released.state == JobState.QUEUED
    assert released.due_at is not None and released.due_at <= utc_now() + timedelta(seconds=PATIENCE_S)
    run_to_the_end(job_id)
    done = job(job_id)
    assert (done.state, done.error, done.error_code) == (JobState.SUCCEEDED, None, None)
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_raised_limit_lets_it_go_on(simulator: Simulator) -> None:
    fill_the_day()
    job_id = park()
    set_limit("daily", "60", "a test")
    assert [found.id for found in _release_deferred()] == [job_id]


def test_they_are_released_in_the_order_of_acceptance_and_no_more_than_fit(simulator: Simulator) -> None:
    held = fill_the_day()
    ids = [park() for _ in range(5)]
    needed = job(ids[0]).needed_nano or 0
    ledger().release(*held)
    day = ledger().usage()[0]
    assert day.left is not None
    ledger().reserve("rest 2", day.left - 3 * needed - 10, job_id="x", user_id=None, job_cap=None, lease_s=600)
    assert [found.id for found in _release_deferred()] == ids[:3]


def test_a_user_whose_own_budget_is_full_does_not_hold_up_the_others(simulator: Simulator) -> None:
    held = fill_the_day()
    ids = [park(user_id=1), park(user_id=2), park(user_id=1), park()]
    ledger().release(*held)
    ledger().reserve("of user 1", usd_to_nano(5) - 1000, job_id="x", user_id="1", job_cap=None, lease_s=600)
    assert [found.id for found in _release_deferred()] == [ids[1], ids[3]]


def test_what_can_never_fit_fails_at_once(simulator: Simulator) -> None:
    allow_daily("0.0001")
    job_id = submit(job_description=POSTING, on_budget="defer")
    with pytest.raises(JobFailed, match="can never fit in the daily budget") as failed:
        run(job_id)
    assert failed.value.code == "budget_never_fits"
    assert job(job_id).state == JobState.FAILED


def test_a_parked_job_that_can_no_longer_fit_waits_its_time_and_holds_up_nobody(simulator: Simulator) -> None:
    held = fill_the_day()
    large, small = park(), park()
    with write() as session:
        session.get_one(Job, large).needed_nano = usd_to_nano(70)
    ledger().release(*held)
    assert [found.id for found in _release_deferred()] == [small]
    with write() as session:
        session.get_one(Job, large).due_at = utc_now() - timedelta(seconds=1)
    assert [found.id for found in _release_deferred()] == [large]


def test_a_limit_of_0_parks_and_does_not_fail(simulator: Simulator) -> None:
    set_limit("daily", "0", "a test")
    job_id = park()
    assert job(job_id).error is not None and "is stopped by the daily budget" in str(job(job_id).error)
    assert _release_deferred() == []
    set_limit("daily", "default", "a test")
    assert [found.id for found in _release_deferred()] == [job_id]


def test_a_jobs_own_cap_is_not_waited_for(simulator: Simulator) -> None:
    job_id = submit(
        job_data={"raw_job_description": POSTING * 60}, artifacts=[], model="claude-opus-4-1-20250805",
        strategy="cost_optimized", on_budget="defer", kind=_generate(),
    )  # fmt: skip
    with pytest.raises(JobFailed, match="the job's cap"):
        run(job_id, _generate())


def _generate() -> Any:
    from tasks.kinds import Generate

    return Generate()


def test_a_parked_job_can_be_cancelled_and_a_stray_message_may_run_it(simulator: Simulator) -> None:
    fill_the_day()
    first, second = park(), park()
    with write() as session:
        assert cancel(session, first)
        assert claim(session, second, "a runner") is not None
    assert job(first).state == JobState.CANCELLED
    assert _release_deferred() == []
