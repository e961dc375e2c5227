"""Jobs run in this very process, without Celery, and what SQL and the ledger hold of them."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from budget.ledger import Ledger, ledger
from budget.money import usd_to_nano
from db.models import Attempt, Job
from db.session import read
from tasks.kinds import Parse
from tests.on_loop import on_loop
from worker.run import RunAgain, run_job
from worker.submit import accept

POSTING = "We look for a baker who can make bread, rolls and cakes. Skills: dough, ovens, early mornings. " * 25


def submit(kind: Any = None, **fields: Any) -> str:
    kind = kind or Parse()
    fields = fields or {"job_description": POSTING, "user_id": 7}
    return accept(kind, uuid.uuid4().hex, fields, due_in_s=0).id


def run(job_id: str, kind: Any = None) -> Any:
    """Where a worker would."""
    kind = kind or Parse()

    def work() -> Any:
        return run_job(kind, job_id, lambda done, total: None)

    return on_loop(work) if kind.on_loop else work()


def run_to_the_end(job_id: str, kind: Any = None) -> Any:
    for _ in range(12):
        try:
            return run(job_id, kind)
        except RunAgain:
            continue
    raise AssertionError("the job never ended")


def attempts() -> list[Attempt]:
    with read() as session:
        return list(session.scalars(select(Attempt).order_by(Attempt.created_at)))


def spent_and_reserved() -> tuple[int, int]:
    day = ledger().usage()[0]
    return day.spent, day.reserved


def allow_daily(usd: str) -> None:
    """Change the daily limit."""
    ledger().settings = ledger().settings.model_copy(update={"daily_budget_usd": usd_to_nano(usd)})


def rows_total() -> int:
    return sum(attempt.cost_nano for attempt in attempts())


def rebuild(cold: Ledger) -> bool:
    from budget.rebuild import rebuild_if_cold

    return rebuild_if_cold(cold, wait_s=0)


def still_mine_then_lose_it(job_id: str) -> Any:
    from db.jobs import still_mine

    def lose(session: Any, _: str, runner: str) -> bool:
        session.get_one(Job, job_id).runner = "another"
        session.flush()
        return still_mine(session, job_id, runner)

    return lose


class Killed(BaseException):
    """SIGKILL, as far as a test process may."""


def die_during_the_call(job_id: str) -> None:
    """Leave the job as a worker does that is killed while the provider works."""
    import worker.attempt

    def die(coroutine: Any) -> None:
        coroutine.close()
        raise Killed

    original = worker.attempt.run_on_loop
    worker.attempt.run_on_loop = die
    try:
        with pytest.raises(Killed):
            run(job_id)
    finally:
        worker.attempt.run_on_loop = original


def end_all_leases() -> None:
    client = ledger().client
    for key in client.zrange("{paymaster}:open", 0, -1):
        client.zadd("{paymaster}:open", {key: 1})


def lost_database(*_: Any) -> None:
    raise OperationalError("update", {}, Exception("gone"))


def outage(monkeypatch: pytest.MonkeyPatch, spool: Path, times: int, *, killed: bool = False) -> list[Path]:
    """SQL fails so many times when an outcome is written; the new files that were there the last time."""
    from db import attempts as module

    close, seen, before = module.close, [], {*spool.glob("*")}
    left = iter(range(times))

    def failing(*arguments: Any) -> bool:
        if next(left, None) is None:
            return close(*arguments)
        seen[:] = {*spool.glob("*")} - before
        if killed and seen:
            raise Killed
        return lost_database()

    monkeypatch.setattr(module, "close", failing)
    return seen


def die_over_an_outage(monkeypatch: pytest.MonkeyPatch, spool: Path, job_id: str) -> None:
    """Leave an outcome on disk as a worker does that is killed while SQL is away."""
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(job_id)
