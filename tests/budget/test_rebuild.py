"""A lost ledger is rebuilt from SQL to what it was, by whoever comes first, and only once."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from sqlalchemy.exc import OperationalError

from budget.connection import connect
from budget.errors import BudgetExceeded, LedgerDown
from budget.ledger import Ledger
from budget.periods import periods_at
from budget.rebuild import rebuild_if_cold
from budget.scopes import OPEN, REBUILDING, WARM, job_key, month_key, reservation_key
from db.models import Attempt, AttemptState, Job, JobState
from db.session import write
from tests.budget.conftest import counters, dump
from tests.budget.test_ledger_at_once import all_at_once


def add_job(job_id: str, state: JobState = JobState.RUNNING, user_id: str | None = "u1", kind: str = "parse") -> None:
    with write() as session:
        session.add(Job(id=job_id, kind=kind, state=state, queue=kind, user_id=user_id, payload={}))


def add_attempt(job_id: str, attempt: str, number: int, **columns: Any) -> None:
    row: dict[str, Any] = {
        "id": attempt, "job_id": job_id, "number": number, "model_name": "m", "provider": "p", "task_type": "parse",
        "strategy": "balanced", "reason": "r", "reserved_nano": 100, **columns,
    }  # fmt: skip
    with write() as session:
        session.add(Attempt(**row))


def spend(
    ledger: Ledger, job_id: str, attempt: str, number: int, reserved: int, state: AttemptState, cost: int = 0,
    user_id: str | None = "u1", job_cap: int | None = 10**12,
) -> None:  # fmt: skip
    """One attempt as the worker leaves it: in the ledger and in SQL."""
    held = ledger.reserve(attempt, reserved, job_id=job_id, user_id=user_id, job_cap=job_cap, lease_s=60)
    add_attempt(
        job_id, attempt, number, state=state, user_id=user_id, reserved_nano=reserved, cost_nano=cost,
        budget_day=held.day, budget_month=held.month,
    )  # fmt: skip
    if state != AttemptState.CALLING:
        ledger.settle(attempt, held.scope_keys, cost)


def busy(ledger: Ledger) -> None:
    """Four jobs of three users: open, settled, released and unknown attempts."""
    add_job("open")
    spend(ledger, "open", "a1", 1, 1000, AttemptState.FAILED, 0)
    spend(ledger, "open", "a2", 2, 2000, AttemptState.UNKNOWN, 2000)
    spend(ledger, "open", "a3", 3, 3000, AttemptState.CALLING)
    add_job("waiting", JobState.WAITING, "u2")
    spend(ledger, "waiting", "b1", 1, 500, AttemptState.FAILED, 123, "u2")
    add_job("done", JobState.SUCCEEDED)
    spend(ledger, "done", "c1", 1, 700, AttemptState.SUCCEEDED, 650)
    add_job("anonymous", JobState.RUNNING, None)
    spend(ledger, "anonymous", "d1", 1, 900, AttemptState.CALLING, user_id=None)


def lose_everything(ledger: Ledger) -> None:
    ledger.client.flushall()


def test_rebuilt_counters_are_what_was_there(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    before = counters(warm_ledger.client)
    assert before.pop(job_key("done")) == (650, 0)  # a final job makes no call any more
    lose_everything(warm_ledger)
    assert rebuild_if_cold(warm_ledger, wait_s=0)
    assert counters(warm_ledger.client) == before


def test_open_reservations_are_rebuilt_and_settle_as_if_nothing_had_happened(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    before = {attempt: warm_ledger.client.hgetall(reservation_key(attempt)) for attempt in ("a3", "d1")}
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    after = {attempt: warm_ledger.client.hgetall(reservation_key(attempt)) for attempt in ("a3", "d1")}
    assert after == before
    leases: Any = warm_ledger.client.zrange(OPEN, 0, -1, withscores=True)
    assert {key for key, _ in leases} == {reservation_key("a3"), reservation_key("d1")}
    assert all(ends <= time.time() for _, ends in leases)
    scope_keys = after["a3"]["scopes"].split("\n")
    warm_ledger.settle("a3", scope_keys, 2500)
    warm_ledger.settle("a3", scope_keys, 2500)
    assert counters(warm_ledger.client)[job_key("open")] == (4500, 0)


def test_an_outcome_that_the_rebuild_found_in_sql_is_not_charged_again(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    before = dump(warm_ledger.client)
    warm_ledger.settle("c1", list(counters(warm_ledger.client)), 650)
    assert dump(warm_ledger.client) == before


def test_an_open_embed_attempt_is_rebuilt_into_the_scopes_that_held_it(warm_ledger: Ledger) -> None:
    add_job("e", kind="embed")
    spend(warm_ledger, "e", "e1", 1, 300, AttemptState.CALLING, job_cap=None)
    before = counters(warm_ledger.client)
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    assert counters(warm_ledger.client) == before


def test_rebuilding_twice_gives_the_same(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    found = []
    for _ in range(2):
        warm_ledger.client.delete(WARM)
        assert rebuild_if_cold(warm_ledger, wait_s=0)
        found.append(counters(warm_ledger.client))
    assert found[0] == found[1]
    assert warm_ledger.client.zcard(OPEN) == 2


def test_a_warm_ledger_is_left_alone_at_once(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    before = dump(warm_ledger.client)
    start = time.monotonic()
    assert not rebuild_if_cold(warm_ledger, wait_s=3)
    assert time.monotonic() - start < 2
    assert dump(warm_ledger.client) == before


def test_of_8_threads_one_rebuilds_and_the_outcome_is_that_of_one(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    alone = counters(warm_ledger.client)
    lose_everything(warm_ledger)
    assert sum(all_at_once(lambda _: rebuild_if_cold(warm_ledger, wait_s=0), 8)) == 1
    assert counters(warm_ledger.client) == alone


def test_a_rebuilder_that_finds_the_ledger_warm_gives_the_lock_back(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_everything(warm_ledger)
    others = SimpleNamespace(sleep=lambda _: warm_ledger.client.hset(WARM, "server", "another's"), time=time.time)
    monkeypatch.setattr("budget.rebuild.time", others)
    assert not rebuild_if_cold(warm_ledger, wait_s=0)
    assert set(dump(warm_ledger.client)) == {WARM}


def test_a_rebuild_that_fails_gives_the_lock_back_so_that_the_next_can_try(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(warm_ledger)
    lose_everything(warm_ledger)

    def no_database(*_: Any) -> int:
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    with monkeypatch.context() as patch:
        patch.setattr("budget.rebuild.figures", no_database)
        with pytest.raises((OperationalError, LedgerDown)):
            rebuild_if_cold(warm_ledger, wait_s=0)
    assert dump(warm_ledger.client) == {}
    assert rebuild_if_cold(warm_ledger, wait_s=0)


def test_while_one_rebuilds_the_others_do_not(warm_ledger: Ledger) -> None:
    lose_everything(warm_ledger)
    warm_ledger.client.set(REBUILDING, "somebody", ex=100)
    assert not rebuild_if_cold(warm_ledger, wait_s=0)
    assert set(dump(warm_ledger.client)) == {REBUILDING}


def test_a_rebuilder_that_slept_too_long_writes_nothing(warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(warm_ledger)
    lose_everything(warm_ledger)

    def oversleep(_: float) -> None:
        warm_ledger.client.set(REBUILDING, "somebody else")

    monkeypatch.setattr("budget.rebuild.time", SimpleNamespace(sleep=oversleep, time=time.time))
    assert not rebuild_if_cold(warm_ledger, wait_s=0)
    assert set(dump(warm_ledger.client)) == {REBUILDING}


def test_the_rebuild_waits_for_records_on_their_way_before_it_reads_sql(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job("late")
    lose_everything(warm_ledger)
    today = periods_at(time.time(), UTC)

    def record_meanwhile(seconds: float) -> None:
        assert seconds > 5
        add_attempt("late", "l1", 1, budget_day=today.day, budget_month=today.month)

    monkeypatch.setattr("budget.rebuild.time", SimpleNamespace(sleep=record_meanwhile, time=time.time))
    assert rebuild_if_cold(warm_ledger)
    assert set(counters(warm_ledger.client).values()) == {(0, 100)}


def test_a_full_budget_is_still_full_after_the_rebuild(warm_ledger: Ledger) -> None:
    add_job("open")
    spend(warm_ledger, "open", "a1", 1, 4 * 10**9, AttemptState.CALLING)
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    with pytest.raises(BudgetExceeded, match="user's daily"):
        warm_ledger.reserve("a2", 10**9 + 1, job_id="j", user_id="u1", job_cap=None, lease_s=60)
    warm_ledger.reserve("a2", 10**9, job_id="j", user_id="u1", job_cap=None, lease_s=60)


def test_earlier_days_count_for_the_month_and_of_earlier_months_only_open_calls_are_known(warm_ledger: Ledger) -> None:
    now = datetime.now(UTC)
    last_month = (now.replace(day=1) - timedelta(days=1)).date().isoformat()
    other_day = f"{now:%Y-%m}-{'01' if now.day != 1 else '02'}"
    days = {"a1": (other_day, AttemptState.SUCCEEDED, 11), "b1": (last_month, AttemptState.SUCCEEDED, 500),
            "c1": (last_month, AttemptState.CALLING, 0), "d1": (last_month, AttemptState.CALLING, 0)}  # fmt: skip
    for attempt, (day, state, cost) in days.items():
        job_id = f"job-{attempt}"
        add_job(job_id, JobState.RUNNING if attempt == "c1" else JobState.SUCCEEDED, None)
        add_attempt(job_id, attempt, 1, state=state, cost_nano=cost, budget_day=day, budget_month=day[:7])
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    assert counters(warm_ledger.client) == {month_key(f"{now:%Y-%m}"): (11, 0), job_key("job-c1"): (0, 100)}
    assert {attempt for attempt, _ in warm_ledger.overdue()} == {"c1", "d1"}


def test_every_rebuilt_key_goes_by_itself_or_stands_on_the_list(warm_ledger: Ledger) -> None:
    busy(warm_ledger)
    lose_everything(warm_ledger)
    rebuild_if_cold(warm_ledger, wait_s=0)
    found = dump(warm_ledger.client)
    assert {key for key, (_, _, goes) in found.items() if not goes} == {WARM, OPEN}


def test_a_server_that_is_gone_is_down(environment: None, warm_ledger: Ledger) -> None:
    from cli.stack import free_port

    gone: redis.Redis = connect(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(LedgerDown):
        rebuild_if_cold(Ledger(gone, warm_ledger.settings), wait_s=0)
