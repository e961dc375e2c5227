"""Jobs that wait for a budget, with real workers, a real beat and Celery's own ways of asking."""

from collections.abc import Iterator

import pytest
from celery import chain
from celery.result import AsyncResult

from budget.compare import differences
from budget.ledger import ledger
from budget.limits import set_limit
from db.models import JobState
from tasks import generate, parse
from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(120)]

POSTING = "A bakery in Porto looks for a night baker. Skills: dough, ovens, patience. " * 30


@pytest.fixture
def _stopped(quiet: RunningStack) -> Iterator[None]:
    """Nothing may be spent, until the test says so."""
    set_limit("daily", "0", "a test")
    yield
    set_limit("daily", "default", "a test")


@pytest.mark.usefixtures("_stopped")
def test_a_chain_waits_for_room_and_then_goes_on_to_its_end(quiet: RunningStack) -> None:
    before = quiet.requests()
    steps = chain(parse.s(job_description=POSTING, on_budget="defer"), generate.s(artifacts=[])).apply_async()
    first = steps.parent
    wait_until(lambda: first.state == "DEFERRED")
    assert "is stopped by the daily budget" in first.info["why"]
    assert first.info["until"].startswith("20")
    assert quiet.job(first.id).state == JobState.DEFERRED
    assert quiet.requests() == before
    set_limit("daily", "default", "a test")
    assert steps.get(timeout=60)["content"]["headline"]
    assert first.get(timeout=5)["processing_metadata"]["model_used"] == "gpt-4o"
    assert quiet.job(first.id).message is None


@pytest.mark.usefixtures("_stopped")
def test_many_wait_and_all_are_done_once_there_is_room(quiet: RunningStack) -> None:
    before = quiet.sums()
    ids = [parse.delay(job_description=POSTING, on_budget="defer").id for _ in range(30)]
    wait_until(lambda: all(quiet.job(job_id).state == JobState.DEFERRED for job_id in ids))
    for key in ledger().client.scan_iter("celery-task-meta-*"):
        ledger().client.delete(key)
    assert AsyncResult(ids[0]).state == "DEFERRED"
    set_limit("daily", "default", "a test")
    assert {job.state for job in quiet.wait_final(ids)} == {JobState.SUCCEEDED}
    wait_until(lambda: quiet.sums().reserved == 0)
    sums = quiet.sums().since(before)
    assert sums.bill == sums.ledger == sums.rows == sums.jobs > 0
    assert differences(ledger()) == []


@pytest.mark.timeout(300)
def test_redis_and_sql_agree_while_both_are_at_work(quiet: RunningStack) -> None:
    quiet.fault(fault="latency", seconds=1)
    ids: list[str] = []

    def agree_while_money_moves() -> bool:
        # more than the worker has threads, however slow it and this process are
        under_way = sum(not JobState(quiet.job(job_id).state).final for job_id in ids)
        ids.extend(
            parse.delay(job_description=f"{POSTING} {number}", user_id=number % 5).id
            for number in range(len(ids), len(ids) + 64 - under_way)
        )
        spent = ledger().usage()[0].spent
        return differences(ledger()) == [] and ledger().usage()[0].spent > spent

    for _ in range(3):
        # a busy machine may leave an attempt in between for longer than a comparison waits; what is lost stays lost
        wait_until(agree_while_money_moves, 60)
    assert {job.state for job in quiet.wait_final(ids)} == {JobState.SUCCEEDED}
    assert differences(ledger()) == []
