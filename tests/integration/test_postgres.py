"""A whole stack on PostgreSQL, which is killed and started again in the middle of 300 jobs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.models import Attempt, CostBasis, Job, JobState
from db.session import read
from tasks import embed, parse
from tests.chaos.nursery import Nursery
from tests.integration.conftest import RunningStack, start, wait_until
from tests.postgres import PostgresServer, postgres_server

pytestmark = [pytest.mark.xdist_group("stack-postgres"), pytest.mark.timeout(300)]

JOBS = 300
POSTING = "A dairy in Bern looks for a cheesemaker. Skills: milk, salt, patience. " * 30
# a commit that was told must outlive the kill; power cuts are not played
DURABLE = {"fsync": "off", "timezone": "Asia/Kolkata"}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server(DURABLE) as made:
        yield made


@contextmanager
def stack_on(server: PostgresServer, home: Path, nursery: Nursery) -> Iterator[RunningStack]:
    yield from start(home, nursery, server.url)


def by_state() -> dict[str, int]:
    with read() as session:
        return dict(list(session.execute(select(Job.state, func.count()).group_by(Job.state))))


def charged_without_knowing() -> list[tuple[str, int]]:
    with read() as session:
        mine = Attempt.cost_basis == CostBasis.RESERVATION
        return [
            (attempt.error_code or "", attempt.cost_nano) for attempt in session.scalars(select(Attempt).where(mine))
        ]


def test_the_server_is_killed_in_the_middle_of_300_jobs(
    server: PostgresServer, tmp_path: Path, nursery: Nursery
) -> None:
    with stack_on(server, tmp_path, nursery) as stack:
        stack.fault(fault="latency", seconds=1.0)
        # whole texts in two kinds of jobs: rows, vectors and results
        ids = [parse.delay(job_description=f"{POSTING} {number}", user_id=number % 7).id for number in range(JOBS - 60)]
        ids += [embed.delay(texts=[f"text {number}", "another"]).id for number in range(60)]
        wait_until(lambda: by_state().get(JobState.RUNNING, 0) >= 20 and by_state().get(JobState.SUCCEEDED, 0) >= 20)
        server.kill()
        # calls end meanwhile: what they cost waits on disk
        time.sleep(4)
        spooled = len(list((tmp_path / "spool").glob("*.json")))
        server.start()
        wait_until(lambda: by_state() == {JobState.SUCCEEDED: JOBS}, 150)
        wait_until(lambda: stack.sums().reserved == 0, 60)
        sums = stack.sums()
        assert spooled >= 10
        assert sorted(ids) == sorted(all_jobs())
        assert list((tmp_path / "spool").glob("*")) == []
        assert sums.ledger == sums.rows == sums.jobs
        # where the kill hit a commit whose answer never came, a call that was not made is charged all the same
        unknown = charged_without_knowing()
        assert sums.ledger - sum(cost for _, cost in unknown) <= sums.bill <= sums.ledger
        print({"unknown": unknown, "spooled": spooled, "sums": sums})
        assert {code for code, _ in unknown} <= {"runner_lost"}
        if not unknown:
            assert sums.bill == sums.ledger


def all_jobs() -> list[str]:
    with read() as session:
        return list(session.scalars(select(Job.id)))
