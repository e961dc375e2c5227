"""A refused call shows that a budget is used up; noting it costs almost nothing, and no job anything."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select

from budget.errors import BudgetExceeded
from budget.ledger import ledger
from budget.money import usd_to_nano
from db.models import Alert, Job, JobState
from db.session import engine, read
from db.writer import group_writer
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, run, run_to_the_end, submit
from worker import refusals
from worker.errors import Deferred, JobFailed
from worker.refusals import note_refusal

pytestmark = pytest.mark.xdist_group("litellm")


def alerts() -> list[tuple[str, str]]:
    with read() as session:
        return [(row.subject, row.threshold) for row in session.scalars(select(Alert).order_by(Alert.id))]


def spend_all_but(usd: str) -> None:
    day = ledger().usage()[0]
    assert day.limit is not None
    amount = day.limit - usd_to_nano(usd)
    held = ledger().reserve("rest", amount, job_id="x", user_id=None, job_cap=None, lease_s=600)
    ledger().settle("rest", held.scope_keys, amount)


@pytest.mark.parametrize(
    ("on_budget", "outcome"), [("reject", JobFailed), ("downgrade", JobFailed), ("defer", Deferred)]
)
def test_a_refused_job_raises_the_alert_whatever_becomes_of_it(
    simulator: Simulator, on_budget: str, outcome: type[Exception]
) -> None:
    spend_all_but("0.000001")
    with pytest.raises(outcome):
        run(submit(job_description=POSTING, on_budget=on_budget))
    assert alerts() == [("daily", "1")]


def test_a_job_that_went_on_with_a_cheaper_model_raises_it_too(simulator: Simulator) -> None:
    spend_all_but("0.003")
    job_id = submit(job_description=POSTING, on_budget="downgrade")
    run_to_the_end(job_id)
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.SUCCEEDED
    assert alerts() == [("daily", "1")]


def test_reservations_of_others_alone_raise_none(simulator: Simulator) -> None:
    day = ledger().usage()[0]
    assert day.left is not None
    ledger().reserve("rest", day.left - 1000, job_id="x", user_id=None, job_cap=None, lease_s=600)
    with pytest.raises(JobFailed):
        run(submit(job_description=POSTING, on_budget="reject"))
    assert alerts() == []


def exceeded(scope: str = "daily") -> BudgetExceeded:
    return BudgetExceeded(scope, 100, 99, 0, 2, ledger().periods().day_end)


@pytest.fixture
def statements(warm_ledger: Any) -> Any:
    """How often SQL was written to."""
    seen: list[str] = []

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT"):
            seen.append(statement)

    event.listen(engine(), "before_cursor_execute", count)
    return seen


def test_a_storm_of_refusals_writes_once(statements: list[str]) -> None:
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda _: note_refusal(exceeded(), "42"), range(50)))
    after_the_first = len(statements)
    for _ in range(1000):
        note_refusal(exceeded(), "42")
    assert len(statements) == after_the_first <= 50
    assert alerts() == [("daily", "1")]


def test_what_is_remembered_is_bounded(statements: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MOST_REMEMBERED", 3)
    for user in range(10):
        note_refusal(exceeded("user"), str(user))
    assert len(refusals._noted()) <= 3
    assert len(alerts()) == 10


def test_a_database_that_is_away_is_no_jobs_problem_and_the_next_refusal_tries_again(
    warm_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(group_writer(), "commit", away)
        note_refusal(exceeded(), "42")
    assert alerts() == []
    note_refusal(exceeded(), "42")
    assert alerts() == [("daily", "1")]
