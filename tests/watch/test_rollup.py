"""Rounds of the daily rollup: none is lost, none does harm, and nobody overwrites what is newer."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

import watch.rollup
from db.attempts import close_late, record
from db.jobs import close_abandoned
from db.models import Attempt, AttemptState, CostBasis, DailyCost, Job, Round, utc_now
from db.rollup import days_since, roll_up_day
from db.rounds import ROLLUP, DaysFailed, last, lock
from db.session import engine, read, write
from watch.rollup import roll_up

DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
PAID = {"state": AttemptState.SUCCEEDED, "success": True, "cost_nano": 300, "cost_basis": CostBasis.USAGE,
        "tokens_used": 0, "input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}  # fmt: skip


@pytest.fixture(autouse=True)
def _a_job(environment: None) -> None:
    with write() as session:
        session.add(Job(id="j", kind="parse", queue="parse", payload={}))


def add(number: int, day: str, *, settled_hours_ago: float | None = 0, **columns: Any) -> None:
    """An attempt that is settled; with None, one that is under way."""
    row = {
        "id": f"a{number}", "job_id": "j", "number": number, "model_name": "m", "provider": "p", "task_type": "parse",
        "strategy": "s", "reason": "r", "budget_day": day, "budget_month": day[:7], "reserved_nano": 900,
    }  # fmt: skip
    with write() as session:
        if settled_hours_ago is None:
            record(session, row)
            return
        settled = {"settled_at": utc_now() - timedelta(hours=settled_hours_ago)}
        session.execute(insert(Attempt), [{**row, **PAID, **settled, **columns}])


def last_round(*, hours_ago: float) -> None:
    """As if that was when the last one was begun."""
    with write() as session:
        session.merge(Round(name="rollup", begun_at=utc_now() - timedelta(hours=hours_ago)))


def totals() -> dict[str, int]:
    with read() as session:
        rows = session.execute(select(DailyCost.date, func.sum(DailyCost.total_cost_nano)).group_by(DailyCost.date))
        return {day: int(cost) for day, cost in rows}


def test_the_first_round_takes_all_days_and_the_next_what_changed_since() -> None:
    for number, day in enumerate(DAYS):
        add(number, day, settled_hours_ago=50 - number)
    assert roll_up() == [*DAYS]
    assert totals() == dict.fromkeys(DAYS, 300)
    assert roll_up() == []
    add(9, DAYS[1])
    assert roll_up() == [DAYS[1]]
    assert totals() == {**dict.fromkeys(DAYS, 300), DAYS[1]: 600}


def test_a_day_that_fails_stops_no_other_and_is_seen_until_it_is_mended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, day in enumerate(DAYS):
        add(number, day)

    def broken(session: Any, day: str) -> None:
        roll_up_day(session, day)
        if day == DAYS[0]:
            raise ValueError("SECRET of a row")

    with monkeypatch.context() as patched:
        patched.setattr(watch.rollup, "roll_up_day", broken)
        for _ in range(2):
            with pytest.raises(DaysFailed, match=DAYS[0]):
                roll_up()
    assert totals() == {DAYS[1]: 300, DAYS[2]: 300}
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        f"day {DAYS[0]} could not be done: ValueError"
    ] * 2
    assert roll_up() == [*DAYS]
    assert totals() == dict.fromkeys(DAYS, 300)


def test_a_round_goes_on_from_the_last_one_however_long_beat_was_down() -> None:
    add(1, DAYS[0], settled_hours_ago=200)
    last_round(hours_ago=100)
    for number, hours in enumerate((99, 50, 3), start=2):
        add(number, DAYS[number - 2], settled_hours_ago=hours)
    assert roll_up() == [*DAYS]
    assert totals() == {DAYS[0]: 600, DAYS[1]: 300, DAYS[2]: 300}


def test_what_was_committed_long_after_it_settled_is_seen_by_the_next_round() -> None:
    roll_up()
    add(1, DAYS[0], settled_hours_ago=0.9)
    assert roll_up() == [DAYS[0]]
    assert totals() == {DAYS[0]: 300}


def test_a_round_that_breaks_off_is_made_up_for_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    add(1, DAYS[0], settled_hours_ago=70)
    add(2, DAYS[1], settled_hours_ago=50)

    def break_off(session: Any, day: str) -> None:
        if day == DAYS[1]:
            raise KeyboardInterrupt
        roll_up_day(session, day)

    with monkeypatch.context() as patched:
        patched.setattr(watch.rollup, "roll_up_day", break_off)
        with pytest.raises(KeyboardInterrupt):
            roll_up()
    assert totals() == {DAYS[0]: 300}
    assert roll_up() == [*DAYS[:2]]
    assert totals() == {DAYS[0]: 300, DAYS[1]: 300}


def test_an_attempt_that_settles_after_its_day_is_in_its_day() -> None:
    add(1, DAYS[0], settled_hours_ago=None)
    assert roll_up() == []
    with write() as session:
        close_abandoned(session, "j")
    assert roll_up() == [DAYS[0]]
    assert totals() == {DAYS[0]: 900}


def test_a_late_answer_corrects_its_day() -> None:
    add(1, DAYS[0], settled_hours_ago=None)
    with write() as session:
        close_abandoned(session, "j")
        session.get_one(Attempt, "a1").settled_at = utc_now() - timedelta(days=3)
    roll_up()
    last_round(hours_ago=5)
    with write() as session:
        assert close_late(session, "a1", PAID)
    assert roll_up() == [DAYS[0]]
    assert totals() == {DAYS[0]: 300}


def test_a_correction_by_hand_corrects_its_day(warm_ledger: Any) -> None:
    from budget.correct import correct

    add(1, DAYS[0], settled_hours_ago=90)
    roll_up()
    last_round(hours_ago=5)
    assert roll_up() == []
    correct("a1", 77, "me")
    assert roll_up() == [DAYS[0]]
    assert totals() == {DAYS[0]: 77}


def test_rounds_at_once_and_calls_that_settle_meanwhile_come_to_the_same() -> None:
    done = threading.Event()

    def settle(first: int) -> None:
        for number in range(first, first + 25):
            add(number, DAYS[number % 3])

    def go_round() -> None:
        while not done.is_set():
            roll_up()

    with ThreadPoolExecutor(6) as pool:
        rounds = [pool.submit(go_round) for _ in range(3)]
        settling = [pool.submit(settle, 100 * worker) for worker in range(1, 4)]
        try:
            for one in settling:
                one.result(timeout=120)
        finally:
            done.set()
        for one in rounds:
            one.result(timeout=120)
    roll_up()
    with read() as session:
        rows = session.execute(select(Attempt.budget_day, func.sum(Attempt.cost_nano)).group_by(Attempt.budget_day))
        assert totals() == {day: int(cost) for day, cost in rows}
    assert sum(totals().values()) == 75 * 300


def is_blocked() -> bool:
    """Whether somebody waits for a lock of PostgreSQL."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with engine().connect() as connection:
        return bool(connection.execute(text(waiting)).scalar_one())


def test_a_round_waits_for_the_one_before_it_and_then_sees_all_that_this_one_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine().dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time anyway")
    add(1, DAYS[0])
    knows_its_days, go_on = threading.Event(), threading.Event()

    def pause(*given: Any) -> Any:
        days = days_since(*given)
        knows_its_days.set()
        assert go_on.wait(60)
        return days

    monkeypatch.setattr(watch.rollup, "days_since", pause)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(roll_up)
        assert knows_its_days.wait(60)
        with write() as session:
            lock(session, ROLLUP)
            go_on.set()
            give_up = time.monotonic() + 60
            while not is_blocked():
                assert time.monotonic() < give_up and not second.done()
            assert totals() == {}, "it went on with the day"
            add(2, DAYS[0])
            roll_up_day(session, DAYS[0])
        assert second.result(timeout=60) == [DAYS[0]]
    assert totals() == {DAYS[0]: 600}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_beat_runs_it_twice_an_hour_in_every_zone_on_every_day(zone: str, day: str) -> None:
    """Those are the days of 23 and of 25 hours in Berlin, whose crontabs leave out the hour that comes twice."""
    told = subprocess.run(
        [sys.executable, "-c", BEAT, day], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "BUDGET_TIMEZONE": zone},
    )  # fmt: skip
    gaps = json.loads(told.stdout)
    assert set(gaps) == {1800} and len(gaps) >= 48


BEAT = """
import json, sys
from datetime import UTC, datetime, timedelta
from tasks.maintenance import roll_up
from worker.app import app
entry = app.conf.beat_schedule["rollup"]
assert entry["task"] == roll_up.name
schedule, moments = entry["schedule"], []
schedule.app = app
start = datetime.fromisoformat(sys.argv[1] + "T00:00:00+00:00") - timedelta(hours=4)
last = now = start
schedule.nowfun = lambda: now.astimezone(app.timezone)
while now < start + timedelta(hours=33):
    if schedule.is_due(last)[0]:
        moments.append(now)
        last = schedule.now()
    now += timedelta(seconds=60)
print(json.dumps([(late - early).total_seconds() for early, late in zip(moments, moments[1:])]))
"""


def test_a_round_that_a_wrong_clock_dated_ahead_loses_nothing() -> None:
    add(1, DAYS[0], settled_hours_ago=30)
    last_round(hours_ago=-48)
    assert roll_up() == [DAYS[0]]
    assert roll_up() == []
    with read() as session:
        assert last(session, ROLLUP) <= utc_now()


def test_the_task_does_a_round() -> None:
    from tasks.maintenance import roll_up as task

    add(1, DAYS[0])
    assert task() == [DAYS[0]]
    assert totals() == {DAYS[0]: 300}
