"""A whole embedded stack for the tests of this folder: real workers in their own processes. Those that share one run in
one test process (`xdist_group`), one after another; a module with a stack of its own is a group of its own."""

import gc
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import pools
from sqlalchemy import func, select

from budget.ledger import ledger
from db.models import Attempt, Job, JobState
from db.once import once_per_environment
from db.session import read
from tests.chaos.nursery import Nursery
from tests.forked import ForkedStack
from worker.app import app

SHARED = Path(__file__).parents[3] / "shared" / "data"


def point_celery_at(url: str) -> None:
    """Make this process' Celery app use another broker and result backend than it was imported with."""
    app.conf.broker_url = app.conf.broker_read_url = app.conf.broker_write_url = url
    app.conf.result_backend = f"worker.results.JobBackend+{url}"
    app.set_default()
    pools.reset()
    app._pool = None
    app.amqp._producer_pool = None
    app._backend_cache = None
    app._local.__dict__.pop("backend", None)


@dataclass(frozen=True)
class Sums:
    """What was billed and booked, nano-USD."""

    bill: int
    ledger: int
    reserved: int
    rows: int
    jobs: int

    def since(self, before: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


class RunningStack:
    """A stack with what tests ask of it."""

    def __init__(self, stack: ForkedStack) -> None:
        self.stack = stack
        self.simulator = stack.environment["PAYMASTER_SIMULATOR"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.simulator + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def fault(self, **rule: Any) -> None:
        self.ask("PUT", "/faults", {"seed": 1, "rules": [rule]})

    def sums(self) -> Sums:
        day = ledger().usage()[0]
        with read() as session:
            rows = session.scalar(select(func.coalesce(func.sum(Attempt.cost_nano), 0)))
            jobs = session.scalar(select(func.coalesce(func.sum(Job.total_cost_nano), 0)))
        return Sums(int(self.ask("GET", "/bill")["cost_nano"]), day.spent, day.reserved, int(rows or 0), int(jobs or 0))

    def requests(self) -> int:
        return int(self.ask("GET", "/requests")["requests"])

    def job(self, job_id: str) -> Job:
        with read() as session:
            return session.get_one(Job, job_id)

    def maybe_job(self, job_id: str) -> Job | None:
        with read() as session:
            return session.get(Job, job_id)

    def wait_final(self, ids: list[str], within_s: float = 90) -> list[Job]:
        wait_until(lambda: all(JobState(self.job(job_id).state).final for job_id in ids), within_s)
        return [self.job(job_id) for job_id in ids]


def wait_until(condition: Callable[[], object], within_s: float = 30) -> None:
    """Wait for it, or fail."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)


def start(
    home: Path, nursery: Nursery, database: str | None = None, broker: str | None = None
) -> Iterator[RunningStack]:
    before, own_broker = dict(os.environ), app.conf.broker_url
    once_per_environment.forget_all()
    try:
        with ForkedStack(
            home, nursery, simulate=True, concurrency=32, database=database, broker=broker
        ) as stack:  # fmt: skip
            point_celery_at(stack.environment["REDIS_URL"])
            yield RunningStack(stack)
            # results tell their Redis good-bye, for which it must be there
            gc.collect()
    finally:
        # the stack that other tests share may be up
        point_celery_at(own_broker)
        once_per_environment.forget_all()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where the Celery processes of this test process' stacks come from."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def stack(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The running stack of this test process."""
    yield from start(tmp_path_factory.mktemp("stack"), nursery)


@pytest.fixture
def quiet(stack: RunningStack) -> Iterator[RunningStack]:
    """The stack without faults, before and after."""
    stack.ask("DELETE", "/faults")
    yield stack
    stack.ask("DELETE", "/faults")
