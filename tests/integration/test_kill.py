"""A worker that is killed in the middle of its calls: every job still ends, and nothing is under-counted."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from budget.errors import LedgerError
from budget.ledger import ledger
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
    # what was reserved and never recorded is released when the sweeper has asked SQL
    wait_until(lambda: quiet.sums().reserved == 0, 40)
    grown = quiet.sums().since(before)
    assert grown.ledger == grown.rows == grown.jobs
    assert 0 < grown.bill <= grown.ledger


@contextmanager
def held(port: int) -> Iterator[None]:
    """Keep everybody but a server of ours from taking a port meanwhile; connections to it are refused."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: not fails(lambda: keeper.bind(("127.0.0.1", port))), 5)
        yield


def answers(port: int) -> bool:
    with redis.Redis(port=port) as client:
        return not fails(client.ping)


def fails(act: Callable[[], object]) -> bool:
    try:
        act()
    except (OSError, redis.RedisError, LedgerError):
        return True
    return False


def test_a_redis_that_is_away_for_seconds_stops_nobody_for_long(quiet: RunningStack) -> None:
    before = quiet.sums()
    quiet.fault(fault="latency", seconds=4)
    ids = [parse.delay(job_description=f"{POSTING} {number}").id for number in range(12)]
    wait_until(lambda: sum(quiet.job(job_id).state == JobState.RUNNING for job_id in ids) >= 8)
    workers = {name: quiet.stack.pid(name) for name in ("worker-parse", "worker-maintenance")}
    port = int(quiet.stack.environment["REDIS_URL"].rpartition(":")[2].partition("/")[0])
    os.kill(quiet.stack.pid("redis"), signal.SIGKILL)
    with held(port):
        time.sleep(6)
        quiet.stack.start_redis(port)
        wait_until(lambda: answers(port))
    jobs = quiet.wait_final(ids, within_s=120)
    assert [(job.id, job.error) for job in jobs if job.state != JobState.SUCCEEDED] == []
    quiet.stack.check()
    assert {name: quiet.stack.pid(name) for name in workers} == workers
    wait_until(lambda: not fails(ledger().usage), 60)
    wait_until(lambda: quiet.sums().reserved == 0)
    now = quiet.sums()
    assert now.ledger == now.rows, "rebuilt by absolute values"
    grown = now.since(before)
    assert 0 < grown.bill <= grown.rows
    assert grown.rows == grown.jobs
