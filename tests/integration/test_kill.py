"""A worker that is killed in the middle of its calls: every job still ends, and nothing is under-counted."""

import os
import signal
import time

import pytest

from db.models import JobState
from tasks import parse
from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(170)]

POSTING = "A dairy in Bern looks for a cheesemaker. Skills: milk, salt, patience. " * 30


def test_jobs_of_a_killed_worker_all_finish_once_it_is_back(quiet: RunningStack) -> None:
    before = quiet.sums()
    quiet.fault(fault="latency", seconds=1.5)
    ids = [parse.delay(job_description=f"{POSTING} {number}").id for number in range(60)]
    wait_until(lambda: sum(quiet.job(job_id).state == JobState.RUNNING for job_id in ids) >= 20)
    os.kill(quiet.stack.pid("worker-parse"), signal.SIGKILL)
    assert any(quiet.job(job_id).state == JobState.RUNNING for job_id in ids)
    quiet.stack.start_worker("parse")
    jobs = quiet.wait_final(ids, within_s=120)
    assert [(job.id, job.error) for job in jobs if job.state != JobState.SUCCEEDED] == []
    grown = quiet.sums().since(before)
    assert grown.ledger == grown.rows == grown.jobs
    assert grown.reserved == 0
    assert 0 < grown.bill <= grown.ledger


def test_a_redis_that_is_away_for_seconds_stops_nobody_for_long(quiet: RunningStack) -> None:
    before = quiet.sums()
    quiet.fault(fault="latency", seconds=4)
    ids = [parse.delay(job_description=f"{POSTING} {number}").id for number in range(12)]
    wait_until(lambda: sum(quiet.job(job_id).state == JobState.RUNNING for job_id in ids) >= 8)
    workers = {name: quiet.stack.pid(name) for name in ("worker-parse", "worker-maintenance")}
    os.kill(quiet.stack.pid("redis"), signal.SIGKILL)
    time.sleep(6)
    quiet.stack.start_redis(int(quiet.stack.environment["REDIS_URL"].rpartition(":")[2].partition("/")[0]))
    jobs = quiet.wait_final(ids, within_s=120)
    assert [(job.id, job.error) for job in jobs if job.state != JobState.SUCCEEDED] == []
    quiet.stack.check()
    assert {name: quiet.stack.pid(name) for name in workers} == workers
    wait_until(lambda: quiet.sums().reserved == 0)
    now = quiet.sums()
    assert now.ledger == now.rows, "rebuilt by absolute values"
    grown = now.since(before)
    assert 0 < grown.bill <= grown.rows
    assert grown.rows == grown.jobs
