"""Costs that become known late: an answer after its runner was taken for dead, a person with the provider's bill, a
ledger that was rebuilt in between."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from budget import rebuild as rebuild_module
from budget.compare import differences
from budget.correct import StillCalling, correct
from budget.errors import LedgerCold, LedgerDown
from budget.ledger import Ledger, ledger
from budget.rebuild import rebuild, rebuild_if_cold
from budget.scopes import WARM
from db.changes import latest
from db.models import AttemptState, CostBasis, Job, JobState, utc_now
from db.session import read, write
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    attempts,
    die_during_the_call,
    end_all_leases,
    run,
    run_to_the_end,
    spent_and_reserved,
    submit,
)
from worker.errors import Cancelled, NotOurs
from worker.sweeper import _end_overdue, _free_orphans

pytestmark = pytest.mark.xdist_group("litellm")


@pytest.fixture
def _taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the provider answers, somebody takes the runner for dead."""
    import worker.attempt

    call = worker.attempt.run_on_loop

    def answer_late(coroutine: Any) -> Any:
        monkeypatch.setattr("worker.attempt.run_on_loop", call)  # the first time only
        try:
            return call(coroutine)
        finally:
            monkeypatch.setattr("worker.sweeper._is_under_way", lambda *_: False)
            end_all_leases()
            assert _end_overdue() == 1
            (attempt,) = attempts()
            assert (attempt.cost_nano, attempt.cost_basis) == (attempt.reserved_nano, CostBasis.RESERVATION)
            assert spent_and_reserved() == (attempt.reserved_nano, 0)

    monkeypatch.setattr("worker.attempt.run_on_loop", answer_late)


@pytest.mark.usefixtures("_taken_for_dead")
def test_an_answer_after_its_runner_was_taken_for_dead_corrects_the_charge(simulator: Simulator) -> None:
    job_id = submit()
    with pytest.raises(NotOurs):
        run(job_id)
    (attempt,) = attempts()
    # somebody may run the job by now: its answer is not used, and does not look as if it were
    assert (attempt.state, attempt.cost_basis, attempt.success) == (AttemptState.FAILED, CostBasis.USAGE, False)
    assert attempt.cost_nano == simulator.bill() < attempt.reserved_nano
    assert spent_and_reserved() == (simulator.bill(), 0)
    with read() as session:
        assert session.get_one(Job, job_id).total_cost_nano == simulator.bill()
    assert differences(ledger()) == []
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    assert run(job_id)
    assert spent_and_reserved() == (simulator.bill(), 0)


@pytest.mark.usefixtures("_taken_for_dead")
@pytest.mark.parametrize(("kind", "fields"), [(Parse(), {}), (Embed(), {"texts": ["bread", "rolls"]})])
def test_it_is_used_if_nobody_runs_the_job_by_then(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, kind: Any, fields: dict[str, Any]
) -> None:
    import worker.attempt

    call = worker.attempt.run_on_loop
    job_id = submit(kind, **fields)

    def freed_meanwhile(coroutine: Any) -> Any:
        answer = call(coroutine)
        with write() as session:
            session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
        assert [job.id for job in _free_orphans()] == [job_id]
        return answer

    monkeypatch.setattr("worker.attempt.run_on_loop", freed_meanwhile)
    with pytest.raises(NotOurs):
        run(job_id, kind)
    assert run(job_id, kind), "whoever gets the message gets the result"
    assert simulator.requests() == 1
    assert [attempt.state for attempt in attempts()] == [AttemptState.SUCCEEDED]
    with read() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.total_cost_nano) == (JobState.SUCCEEDED, simulator.bill())
    assert spent_and_reserved() == (simulator.bill(), 0)


@pytest.mark.usefixtures("_taken_for_dead")
def test_an_error_after_its_runner_was_taken_for_dead_gives_the_charge_back(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=503)
    with pytest.raises(NotOurs):
        run(submit())
    assert attempts()[0].cost_basis == CostBasis.NOT_BILLED
    assert spent_and_reserved() == (0, 0)


def rebuild_now(of: Ledger) -> None:
    of.client.delete(WARM)
    assert rebuild_if_cold(of, wait_s=0)


def lose_one(simulator: Simulator) -> Any:
    """An attempt that nobody knows the cost of, of a job that has succeeded."""
    job_id = submit()
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    run_to_the_end(job_id)
    return attempts()[0]


def test_a_person_corrects_the_cost_everywhere_and_it_is_noted(simulator: Simulator) -> None:
    lost = lose_one(simulator)
    assert lost.cost_basis == CostBasis.RESERVATION
    before, _ = spent_and_reserved()
    correct(lost.id, 17, "ann@desk")
    correct(lost.id, 17, "ann@desk")  # once more is no harm
    assert spent_and_reserved() == (before - lost.cost_nano + 17, 0)
    with read() as session:
        job = session.get_one(Job, lost.job_id)
        assert job.total_cost_nano == before - lost.cost_nano + 17
        assert job.model_metadata is not None and job.model_metadata["cost_usd"] == job.total_cost_nano / 10**9
        changes = latest(session, 5)
    assert [(c.what, c.subject, c.after, c.who) for c in changes] == [("cost", lost.id, "$0.000000017", "ann@desk")] * 2
    assert differences(ledger()) == []


def test_a_correction_holds_over_a_rebuild_and_can_still_be_made_after_one(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budget.correct.rebuild", rebuild_now)
    lost = lose_one(simulator)
    rest = spent_and_reserved()[0] - lost.cost_nano
    rebuild_now(ledger())
    assert spent_and_reserved() == (rest + lost.cost_nano, 0)
    correct(lost.id, 17, "ann@desk")
    assert spent_and_reserved() == (rest + 17, 0)
    rebuild_now(ledger())
    assert spent_and_reserved() == (rest + 17, 0)
    correct(lost.id, 18, "ann@desk")  # Redis knows only open and unknown ones now, so this rebuilds
    assert spent_and_reserved() == (rest + 18, 0)
    _end_overdue()
    assert differences(ledger()) == []


def test_a_correction_that_the_ledger_missed_is_made_up_by_the_sweeper_after_the_rebuild(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild reads SQL, then the correction is written there while the ledger is cold, then the rebuild writes."""
    lost = lose_one(simulator)
    rest = spent_and_reserved()[0] - lost.cost_nano
    figures = rebuild_module.figures

    def correct_meanwhile(*arguments: Any) -> Any:
        found = figures(*arguments)
        with pytest.raises(LedgerCold):
            correct(lost.id, 17, "ann@desk")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(rebuild_module, "figures", correct_meanwhile)
        rebuild_now(ledger())
    assert spent_and_reserved() == (rest + lost.cost_nano, 0)
    _end_overdue()
    assert spent_and_reserved() == (rest + 17, 0)
    assert differences(ledger()) == []


def test_a_call_that_is_under_way_is_not_corrected(simulator: Simulator) -> None:
    die_during_the_call(submit())
    (attempt,) = attempts()
    with pytest.raises(StillCalling, match="is under way"):
        correct(attempt.id, 17, "ann@desk")
    assert spent_and_reserved() == (0, attempt.reserved_nano)


def test_a_call_whose_runner_lives_gets_more_time(simulator: Simulator) -> None:
    die_during_the_call(submit())
    end_all_leases()
    assert _end_overdue() == 0
    assert ledger().overdue() == []
    assert attempts()[0].state == AttemptState.CALLING


def test_rebuild_on_demand_returns_when_the_ledger_is_warm_whoever_did_it(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_one(simulator)
    before = spent_and_reserved()
    monkeypatch.setattr("budget.rebuild.rebuild_if_cold", lambda of, **_: rebuild_now(of))
    rebuild(ledger())
    assert spent_and_reserved() == before


def test_a_correction_that_could_not_reach_the_ledger_is_made_up_within_the_hour(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_one(simulator)
    rest = spent_and_reserved()[0] - lost.cost_nano

    def away(*_: Any) -> None:
        raise LedgerDown("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger(), "_end", away)
        with pytest.raises(LedgerDown):
            correct(lost.id, 17, "ann@desk")
    assert _end_overdue() == 0, "it is not asked about all the time"
    end_all_leases()
    assert _end_overdue() == 1
    assert spent_and_reserved() == (rest + 17, 0)
    end_all_leases()
    assert _end_overdue() == 0, "what is settled is not asked about any more"


def test_a_correction_of_a_call_whose_settling_was_lost_ends_its_reservation(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise LedgerDown("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger(), "_end", away)
        run(submit())
    (attempt,) = attempts()
    assert spent_and_reserved() == (0, attempt.reserved_nano)
    correct(attempt.id, 17, "ann@desk")
    assert spent_and_reserved() == (17, 0)


@pytest.mark.usefixtures("_taken_for_dead")
def test_a_late_answer_does_not_undo_a_correction_by_hand(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.attempt

    call = worker.attempt.run_on_loop

    def corrected_meanwhile(coroutine: Any) -> Any:
        answer = call(coroutine)
        with monkeypatch.context() as patch:
            patch.setattr(ledger(), "_end", away)
            with pytest.raises(LedgerDown):
                correct(attempts()[0].id, 12_345, "ann@desk")
        return answer

    monkeypatch.setattr("worker.attempt.run_on_loop", corrected_meanwhile)
    with pytest.raises(NotOurs):
        run(submit())
    assert spent_and_reserved() == (12_345, 0)
    assert attempts()[0].cost_nano == 12_345


def away(*_: Any) -> None:
    raise LedgerDown("away")


def test_a_reservation_that_cannot_be_ended_keeps_none_behind_it_waiting(simulator: Simulator) -> None:
    spoilt = ledger().reserve("spoilt", 7, job_id="j", user_id="odd", job_cap=None, lease_s=-1)
    ledger().reserve("behind", 9, job_id="j", user_id=None, job_cap=None, lease_s=-1)
    ledger().client.hset(spoilt.scope_keys[2], mapping={"spent": 0, "reserved": 0})
    assert _end_overdue() == 1
    assert spent_and_reserved() == (0, 7)
    assert ledger().overdue() == [], "the spoilt one is tried again later"


def test_a_runner_that_lost_its_job_leaves_the_new_ones_call_alone(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.attempt
    from worker.errors import JobFailed, NotOurs
    from worker.run import _give_up

    call = worker.attempt.run_on_loop
    job_id = submit()

    def the_old_one_gives_up(coroutine: Any) -> Any:
        with pytest.raises(NotOurs):
            _give_up(Parse(), job_id, "the old runner", JobFailed("No room.", "budget"))
        return call(coroutine)

    monkeypatch.setattr("worker.attempt.run_on_loop", the_old_one_gives_up)
    assert run(job_id)
    assert [attempt.state for attempt in attempts()] == [AttemptState.SUCCEEDED]
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_after_an_outage_living_runners_get_time_to_say_so(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import sweeper
    from worker.app import app

    clock = [1000.0]
    monkeypatch.setattr("worker.sweeper.time", SimpleNamespace(monotonic=lambda: clock[0]))
    # there is no broker, and Celery would look for one for 20 s
    monkeypatch.setattr("worker.sweeper._publish", lambda _, found: len(found))
    job_id = submit()
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    end_all_leases()
    for seconds, freed in ((0, False), (5, False), (sweeper.AFTER_OUTAGE_S, True)):
        clock[0] += seconds
        done = sweeper.sweep(app)
        assert ("reservations" in done) is ("orphans" in done) is freed, (seconds, done)


def test_a_worker_that_seldom_sweeps_knows_that_sql_was_there_meanwhile(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import sweeper

    lease_s = 0.6
    monkeypatch.setattr(sweeper, "LEASE_S", lease_s)
    monkeypatch.setattr(sweeper, "AFTER_OUTAGE_S", 2 * lease_s / 3)
    assert not sweeper._sql_watch().is_steady()
    for _ in range(20):
        time.sleep(3 * lease_s)
        if sweeper._sql_watch().is_steady():
            return
    raise AssertionError("it forgets what was between its rounds")


def test_no_call_starts_once_the_worker_is_stopped(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.errors import RunAgain
    from worker.shutdown import stopping

    def record_then_stop(*arguments: Any) -> None:
        record(*arguments)
        stopping.set()

    import worker.attempt

    record = worker.attempt._record
    monkeypatch.setattr("worker.attempt._record", record_then_stop)
    try:
        with pytest.raises(RunAgain):
            run(submit())
    finally:
        stopping.clear()
    assert simulator.requests() == 0
    assert spent_and_reserved() == (0, 0)


def test_an_answer_of_a_job_that_was_cancelled_meanwhile_is_paid_and_not_shown(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was taken for dead during the call, and the job, which nobody had any more, was cancelled."""
    import worker.attempt
    from db.jobs import cancel

    call = worker.attempt.run_on_loop
    job_id = submit()

    def cancelled_meanwhile(coroutine: Any) -> Any:
        answer = call(coroutine)
        with write() as session:
            job = session.get_one(Job, job_id)
            job.state, job.runner, job.lease_until = JobState.QUEUED, None, None
        with write() as session:
            assert cancel(session, job_id)
        return answer

    monkeypatch.setattr("worker.attempt.run_on_loop", cancelled_meanwhile)
    with pytest.raises(Cancelled):
        run(job_id)
    with read() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.result, job.total_cost_nano) == (JobState.CANCELLED, None, simulator.bill())
    assert spent_and_reserved() == (simulator.bill(), 0)
