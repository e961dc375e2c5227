"""Runs that go wrong around the call: lost workers, ledgers, databases and messages. No job is left open, no
reservation is forgotten, and what was paid is booked."""

from typing import Any

import pytest

from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.ledger import ledger
from budget.scopes import WARM
from db import jobs
from db.environment import read_settings
from db.models import AttemptState, Job, JobState
from db.session import read, write
from selection.registry import load_registry
from selection.settings import SelectionSettings
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    POSTING,
    allow_daily,
    attempts,
    die_during_the_call,
    end_all_leases,
    lost_database,
    rebuild,
    rows_total,
    run,
    run_to_the_end,
    spent_and_reserved,
    still_mine_then_lose_it,
    submit,
)
from worker import gateway
from worker.errors import CallFailed, JobFailed
from worker.run import NotOurs, RunAgain

pytestmark = pytest.mark.xdist_group("litellm")


def test_an_empty_ledger_makes_no_call_and_is_rebuilt(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    run(submit())
    before = spent_and_reserved()
    ledger().client.flushall()
    monkeypatch.setattr("worker.one_run.rebuild_if_cold", rebuild)
    job_id = submit()
    with pytest.raises(RunAgain) as cold:
        run(job_id)
    assert "rebuilt" in str(cold.value)
    assert simulator.requests() == 1
    assert spent_and_reserved() == before
    run(job_id)
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_ledger_out_of_reach_makes_no_call(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise LedgerDown("no answer")

    monkeypatch.setattr(ledger(), "reserve", gone)
    job_id = submit()
    with pytest.raises(RunAgain):
        run(job_id)
    assert simulator.requests() == 0
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.WAITING


@pytest.mark.parametrize("trouble", [LedgerDown, LedgerCold])
def test_a_settle_that_is_lost_is_made_up_by_the_sweeper(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
) -> None:
    from worker import sweeper

    def lost(*_: Any) -> None:
        raise trouble("lost")

    with monkeypatch.context() as patch:
        patch.setattr(ledger(), "_end", lost)
        run(submit())
    spent, reserved = spent_and_reserved()
    assert (spent, reserved > 0) == (0, True)
    end_all_leases()
    assert sweeper._end_overdue() == 1
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_reservation_without_a_record_is_released_by_the_sweeper(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import sweeper

    with monkeypatch.context() as patch:
        patch.setattr("worker.attempt.still_mine", lambda *_: 1 / 0)
        with pytest.raises(RunAgain):
            run(submit())
    assert simulator.requests() == 0
    assert spent_and_reserved()[1] > 0
    end_all_leases()
    sweeper._end_overdue()
    assert spent_and_reserved() == (0, 0)


def test_a_record_that_comes_too_late_makes_no_call(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.attempt.RECORD_DEADLINE_S", -1)
    with pytest.raises(RunAgain, match="too long"):
        run(submit())
    assert simulator.requests() == 0
    assert spent_and_reserved() == (0, 0)
    assert [attempt.state for attempt in attempts()] == [AttemptState.FAILED]


def test_a_call_whose_worker_died_is_charged_at_the_reservation_and_the_job_runs_again(simulator: Simulator) -> None:
    job_id = submit()
    die_during_the_call(job_id)
    held = spent_and_reserved()[1]
    assert held > 0
    with write() as session:
        session.get_one(Job, job_id).lease_until = session.get_one(Job, job_id).created_at
    run(job_id)
    lost, good = attempts()
    assert (lost.state, lost.cost_nano) == (AttemptState.UNKNOWN, lost.reserved_nano)
    assert good.state == AttemptState.SUCCEEDED
    assert spent_and_reserved() == (held + simulator.bill(), 0)


def test_a_job_has_one_runner(simulator: Simulator) -> None:
    job_id = submit()
    with write() as session:
        assert jobs.claim(session, job_id, "somebody else")
    with pytest.raises(NotOurs):
        run(job_id)
    assert simulator.requests() == 0


def test_a_second_message_of_a_finished_job_brings_its_result_and_no_request(simulator: Simulator) -> None:
    job_id = submit()
    first = run(job_id)
    assert run(job_id) == first
    assert simulator.requests() == 1


def test_a_runner_that_was_taken_for_dead_changes_nothing_any_more(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    original = still_mine_then_lose_it(job_id)
    monkeypatch.setattr("worker.attempt.still_mine", original)
    with pytest.raises(NotOurs):
        run(job_id)
    assert simulator.requests() == 0
    assert spent_and_reserved() == (0, 0)


def test_the_budget_is_exceeded_by_nobody_even_at_once(simulator: Simulator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    allow_daily("0.05")
    ids = [submit(job_description=POSTING, on_budget="reject") for _ in range(20)]

    def attempt_one(job_id: str) -> bool:
        try:
            run(job_id)
        except (JobFailed, BudgetExceeded):
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(attempt_one, ids))
    assert 0 < sum(done) < 20
    assert simulator.bill() <= 50_000_000
    assert spent_and_reserved() == (simulator.bill(), 0)
    assert ledger().client.exists(WARM)


@pytest.mark.parametrize("moment", ["requests", "keep", "facts"])
def test_an_error_that_nobody_foresaw_ends_the_job_and_leaves_nothing_open(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    def bug(*_: Any) -> None:
        raise KeyError(POSTING)

    job_id = submit()
    monkeypatch.setattr(Parse, moment, bug)
    with pytest.raises(JobFailed, match=r"internal error \(KeyError\)"):
        run(job_id)
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.FAILED
        assert session.get_one(Job, job_id).total_cost_nano == rows_total()
    assert AttemptState.CALLING not in {attempt.state for attempt in attempts()}
    spent, reserved = spent_and_reserved()
    assert reserved == 0
    assert spent == rows_total() >= simulator.bill()
    assert "baker" not in caplog.text


def test_an_answer_that_our_own_code_cannot_read_is_booked_and_the_next_model_is_tried(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any) -> None:
        raise KeyError(POSTING)

    job_id = submit()
    with monkeypatch.context() as patch:
        patch.setattr(Parse, "read", bug)
        with pytest.raises(RunAgain, match="could not be read: KeyError"):
            run(job_id)
    run(job_id)
    first = attempts()[0]
    assert (first.state, first.error_code) == (AttemptState.FAILED, "unreadable")
    assert spent_and_reserved() == (simulator.bill(), 0)
    assert rows_total() == simulator.bill()


def test_a_slow_database_is_not_held_against_the_model(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(Embed(), texts=["bread"])
    with monkeypatch.context() as patch:
        patch.setattr("worker.attempt.RECORD_DEADLINE_S", -1)
        for _ in range(3):
            with pytest.raises(RunAgain):
                run(job_id, Embed())
    assert run(job_id, Embed())[0]["dimensions"] == 1536


def test_a_job_that_is_cancelled_after_a_billed_failure_keeps_its_cost(simulator: Simulator) -> None:
    simulator.fault(fault="refusal")
    job_id = submit()
    with pytest.raises(RunAgain):
        run(job_id)
    with write() as session:
        assert jobs.cancel(session, job_id)
    with read() as session:
        assert session.get_one(Job, job_id).total_cost_nano == rows_total() > 0


def test_a_job_is_kept_only_while_it_runs(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not tell SQL how it ended must not be kept alive by its process."""
    from worker import heartbeat

    job_id = submit()
    monkeypatch.setattr("worker.run.jobs.attempts_of", lost_database)
    simulator.fault(fault="status", status=503)
    with pytest.raises(RunAgain):
        run(job_id)
    assert heartbeat._running == {}
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.RUNNING


def test_an_answer_in_broken_utf_8_counts_as_billed_and_a_request_that_cannot_be_encoded_does_not() -> None:
    model = load_registry().models["gpt-4o"]
    for error, billed in (
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), False),
    ):
        with pytest.raises(CallFailed) as failed:
            gateway._raise_own(model, error)
        assert failed.value.billed is billed


def test_an_embed_job_stays_on_the_model_of_its_first_part_whatever_the_strategy_says_by_now(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(Embed(), texts=[f"text {number}" for number in range(2050)])
    reserve = ledger().reserve

    def once(*args: Any, **kwargs: Any) -> Any:
        if attempts():
            raise LedgerDown("no answer")
        return reserve(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ledger(), "reserve", once)
        with pytest.raises(RunAgain):
            run(job_id, Embed())
    read_settings(SelectionSettings).model_selection_strategy = "quality_optimized"
    items = run(job_id, Embed())
    assert {item["model_used"] for item in items} == {"text-embedding-3-small"}
    assert len({item["dimensions"] for item in items}) == 1
    assert [item["text_index"] for item in items] == list(range(2050))


def test_models_take_turns_until_the_cap(simulator: Simulator) -> None:
    """None is lost for good after its two tries: the one that was down first may be up again."""
    simulator.fault(fault="status", status=500, first=7)
    metadata = run_to_the_end(submit())["processing_metadata"]
    turns = [attempt.model_name for attempt in attempts()]
    first, second, third = turns[0], turns[2], turns[4]
    assert turns == [first, first, second, second, third, third, first, first]
    assert metadata["model_used"] == first
    assert spent_and_reserved() == (simulator.bill(), 0)
