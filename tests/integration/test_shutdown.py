"""SIGTERM to a worker: what is under way may end, the rest is handed back at no charge, and nothing is lost."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from db.models import Attempt, AttemptState, JobState
from db.session import read
from tasks import parse
from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(170)]

POSTING = "A mill in Turin looks for a miller. Skills: grain, stones, patience. " * 30


@pytest.fixture
def impatient(quiet: RunningStack) -> Iterator[RunningStack]:
    """The worker of parse jobs with 4 s to end its calls; afterwards the usual one."""
    restart(quiet, WORKER_SHUTDOWN_S="4")
    yield quiet
    del quiet.stack.environment["WORKER_SHUTDOWN_S"]
    restart(quiet)


def restart(stack: RunningStack, **environment: str) -> None:
    stack.stack.end(["worker-parse"])
    stack.stack.environment |= environment
    log = stack.stack.log_of("worker-parse")
    before = log.read_text()
    stack.stack.start_worker("parse")
    wait_until(lambda: " ready." in log.read_text().removeprefix(before), 60)


def submit_until_busy(stack: RunningStack, number: int, busy: int) -> list[str]:
    ids = [parse.delay(job_description=f"{POSTING} {n}").id for n in range(number)]
    wait_until(lambda: states(ids).count(JobState.RUNNING) >= busy)
    time.sleep(0.3)  # until their calls have left
    return ids


def states(ids: list[str]) -> list[JobState]:
    from db.models import Job

    with read() as session:
        return [JobState(state) for state in session.scalars(select(Job.state).where(Job.id.in_(ids)))]


def attempts_of(ids: list[str]) -> list[Attempt]:
    with read() as session:
        return list(session.scalars(select(Attempt).where(Attempt.job_id.in_(ids))))


def ended(stack: RunningStack) -> int:
    return stack.stack.wait("worker-parse", 30)


def test_calls_under_way_end_and_the_rest_is_handed_back(impatient: RunningStack) -> None:
    before = impatient.sums()
    impatient.fault(fault="latency", seconds=2)
    ids = submit_until_busy(impatient, 60, 20)
    os.kill(impatient.stack.pid("worker-parse"), signal.SIGTERM)
    assert ended(impatient) == 0
    assert JobState.RUNNING not in states(ids), "nothing waits for a lease to lapse"
    assert {attempt.state for attempt in attempts_of(ids)} == {AttemptState.SUCCEEDED}
    assert len(attempts_of(ids)) < len(ids)
    impatient.stack.start_worker("parse")
    assert {job.state for job in impatient.wait_final(ids)} == {JobState.SUCCEEDED}
    wait_until(lambda: impatient.sums().reserved == 0)
    grown = impatient.sums().since(before)
    assert grown.bill == grown.ledger == grown.rows == grown.jobs


def test_calls_that_take_too_long_are_given_up_and_made_again(impatient: RunningStack) -> None:
    before = impatient.sums()
    impatient.fault(fault="hang", first=10)
    ids = submit_until_busy(impatient, 10, 10)
    os.kill(impatient.stack.pid("worker-parse"), signal.SIGTERM)
    assert ended(impatient) == 0
    found = attempts_of(ids)
    assert {(attempt.state, attempt.error_code) for attempt in found} == {(AttemptState.UNKNOWN, "shutdown")}
    assert all(attempt.cost_nano == attempt.reserved_nano for attempt in found)
    impatient.stack.start_worker("parse")
    assert {job.state for job in impatient.wait_final(ids)} == {JobState.SUCCEEDED}
    wait_until(lambda: impatient.sums().reserved == 0)
    grown = impatient.sums().since(before)
    assert grown.bill <= grown.ledger == grown.rows == grown.jobs


def test_a_second_sigterm_ends_it_at_once_and_loses_nothing(impatient: RunningStack) -> None:
    before = impatient.sums()
    impatient.fault(fault="latency", seconds=60)
    ids = submit_until_busy(impatient, 20, 15)
    pid = impatient.stack.pid("worker-parse")
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    assert ended(impatient) == 128 + signal.SIGTERM
    assert {attempt.state for attempt in attempts_of(ids)} == {AttemptState.CALLING}
    impatient.ask("DELETE", "/faults")
    impatient.stack.start_worker("parse")
    assert {job.state for job in impatient.wait_final(ids)} == {JobState.SUCCEEDED}
    wait_until(lambda: impatient.sums().reserved == 0, 60)
    grown = impatient.sums().since(before)
    assert grown.bill <= grown.ledger == grown.rows == grown.jobs
