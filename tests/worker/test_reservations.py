"""Every way that a call can end, and what becomes of its reservation: through real litellm over HTTP, with the
simulator's bill as referee. The ledger may hold more than the bill, never less."""

import uuid
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.ledger import Ledger, ledger
from budget.money import usd_to_nano
from budget.scopes import WARM
from db import jobs
from db.models import Attempt, AttemptState, Job, JobState
from db.session import read, write
from tasks.kinds import Embed, Generate, Parse
from tests.worker.conftest import Simulator
from worker.errors import JobFailed
from worker.run import NotOurs, RunAgain, run_job
from worker.submit import accept

pytestmark = pytest.mark.xdist_group("litellm")

POSTING = "We look for a baker who can make bread, rolls and cakes. Skills: dough, ovens, early mornings. " * 25


def submit(kind: Any = None, **fields: Any) -> str:
    kind = kind or Parse()
    fields = fields or {"job_description": POSTING, "user_id": 7}
    return accept(kind, uuid.uuid4().hex, fields, due_in_s=0).id


def run(job_id: str, kind: Any = None) -> Any:
    return run_job(kind or Parse(), job_id, lambda done, total: None)


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


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Parse(), {"job_description": POSTING}),
        (Parse(), {"job_description": "short"}),
        (Generate(), {"job_data": {"raw_job_description": POSTING}, "artifacts": [{"a": n} for n in range(12)]}),
        (Embed(), {"texts": ["one", "two", "three"]}),
    ],
    ids=["gpt-4o", "gpt-4o-mini", "claude-sonnet", "embedding"],
)
def test_a_good_answer_costs_what_the_provider_bills(simulator: Simulator, kind: Any, fields: dict[str, Any]) -> None:
    run(submit(kind, **fields), kind)
    assert simulator.requests() == 1
    assert simulator.bill() > 0
    assert spent_and_reserved() == (simulator.bill(), 0)
    assert rows_total() == simulator.bill()
    (attempt,) = attempts()
    assert attempt.state == AttemptState.SUCCEEDED
    assert 0 < attempt.cost_nano <= attempt.reserved_nano


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-20250514"])
def test_an_error_answer_releases_the_reservation(simulator: Simulator, status: int, model: str) -> None:
    simulator.fault(fault="status", status=status)
    with pytest.raises((RunAgain, JobFailed)):
        run(submit(job_description=POSTING, model=model))
    assert simulator.requests() == 1
    (attempt,) = attempts()
    assert (attempt.state, attempt.cost_nano, attempt.reserved_nano > 0) == (AttemptState.FAILED, 0, True)
    assert spent_and_reserved() == (0, 0)


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-20250514", "text-embedding-3-small"])
@pytest.mark.parametrize(
    "fault",
    [{"fault": "reset"}, {"fault": "cut"}, {"fault": "malformed"}, {"fault": "malformed", "body": "json"},
     {"fault": "hang"}, {"fault": "drip", "bytes": 1, "seconds": 0.2}],
    ids=["reset", "cut", "html", "broken json", "hang", "drip"],
)  # fmt: skip
def test_a_lost_answer_is_charged_at_the_reservation(
    simulator: Simulator, fault: dict[str, Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_CALL_DEADLINE_S", "1.5")
    simulator.fault(**fault)
    kind: Any = Embed() if "embedding" in model else Parse()
    fields = {"texts": ["bread"]} if "embedding" in model else {"job_description": POSTING}
    with pytest.raises((RunAgain, JobFailed)):
        run(submit(kind, model=model, **fields), kind)
    assert simulator.requests() == 1, "one attempt is one request"
    (attempt,) = attempts()
    assert attempt.state == AttemptState.UNKNOWN
    assert attempt.cost_nano == attempt.reserved_nano >= simulator.bill() > 0
    assert spent_and_reserved() == (attempt.reserved_nano, 0)


def test_a_reset_before_anything_was_generated_is_charged_too_since_nobody_can_know(simulator: Simulator) -> None:
    simulator.fault(fault="reset", before=True)
    with pytest.raises(RunAgain):
        run(submit())
    (attempt,) = attempts()
    assert attempt.cost_nano == attempt.reserved_nano
    assert simulator.bill() == 0


def test_a_refused_connection_releases_the_reservation(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:1/v1")
    with pytest.raises(RunAgain, match="no connection"):
        run(submit())
    assert attempts()[0].cost_nano == 0
    assert spent_and_reserved() == (0, 0)


def test_a_missing_key_releases_the_reservation_and_names_the_provider(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises((RunAgain, JobFailed), match="OPENAI_API_KEY is not set"):
        run(submit())
    assert spent_and_reserved() == (0, 0)


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-20250514"])
@pytest.mark.parametrize("fault", ["invalid_json", "refusal", "content_filter", "truncate"])
def test_a_useless_answer_costs_its_usage_and_the_next_model_is_tried(
    simulator: Simulator, fault: str, model: str
) -> None:
    simulator.fault(fault=fault, first=1)
    result = run_to_the_end(submit(job_description=POSTING, model=model))
    first, second = attempts()
    assert first.state == AttemptState.FAILED
    assert 0 < first.cost_nano < first.reserved_nano
    assert first.error_class == "next"
    assert second.model_name != model
    assert result["processing_metadata"]["fallback_used"] is True
    assert spent_and_reserved() == (simulator.bill(), 0)
    assert rows_total() == simulator.bill()


@pytest.mark.parametrize("usage", ["missing", "zero", "negative", "absurd"])
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-20250514"])
def test_an_unbelievable_usage_is_charged_at_the_reservation(simulator: Simulator, usage: str, model: str) -> None:
    simulator.fault(fault="usage", usage=usage, first=1)
    run_to_the_end(submit(job_description=POSTING, model=model))
    first = attempts()[0]
    assert first.cost_nano == first.reserved_nano
    spent, reserved = spent_and_reserved()
    assert (spent, reserved) == (rows_total(), 0)
    assert spent >= simulator.bill()


def test_no_room_means_no_call_and_no_trace(simulator: Simulator) -> None:
    allow_daily("0.0000001")
    job_id = submit()
    with pytest.raises(JobFailed, match="daily budget"):
        run(job_id)
    assert simulator.requests() == 0
    assert attempts() == []
    with read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.error_code) == (JobState.FAILED, "budget")


def test_a_tight_budget_takes_the_next_cheaper_model(simulator: Simulator) -> None:
    allow_daily("0.005")
    result = run(submit())
    assert result["processing_metadata"]["model_used"] == "gpt-4o-mini"
    assert result["processing_metadata"]["selection_reason"] == "budget_downgrade"
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_job_that_must_not_be_downgraded_is_refused(simulator: Simulator) -> None:
    allow_daily("0.005")
    with pytest.raises(JobFailed, match="can never fit in the daily budget"):
        run(submit(job_description=POSTING, on_budget="reject"))
    assert simulator.requests() == 0


def test_a_job_never_costs_more_than_its_cap_over_all_attempts(simulator: Simulator) -> None:
    simulator.fault(fault="malformed")
    job_id = submit(job_description=POSTING, strategy="cost_optimized", model="claude-sonnet-4-20250514")
    with pytest.raises(JobFailed):
        run_to_the_end(job_id)
    assert rows_total() <= 50_000_000


def test_an_empty_ledger_makes_no_call_and_is_rebuilt(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    run(submit())
    before = spent_and_reserved()
    ledger().client.flushall()
    monkeypatch.setattr("worker.run.rebuild_if_cold", rebuild)
    job_id = submit()
    with pytest.raises(RunAgain) as cold:
        run(job_id)
    assert "rebuilt" in str(cold.value)
    assert simulator.requests() == 1
    assert spent_and_reserved() == before
    run(job_id)
    assert spent_and_reserved() == (simulator.bill(), 0)


def rebuild(cold: Ledger) -> bool:
    from budget.rebuild import rebuild_if_cold

    return rebuild_if_cold(cold, wait_s=0)


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
        patch.setattr(ledger(), "settle", lost)
        run(submit())
    spent, reserved = spent_and_reserved()
    assert (spent, reserved > 0) == (0, True)
    end_all_leases()
    assert sweeper._settle_overdue() == 1
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
    sweeper._settle_overdue()
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


def still_mine_then_lose_it(job_id: str) -> Any:
    from db.jobs import still_mine

    def lose(session: Any, _: str, runner: str) -> bool:
        session.get_one(Job, job_id).runner = "another"
        session.flush()
        return still_mine(session, job_id, runner)

    return lose


def die_during_the_call(job_id: str) -> None:
    """Leave the job as a worker does that is killed while the provider works."""
    import worker.attempt

    class Killed(BaseException):
        pass

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


def test_a_database_that_fails_when_the_answer_is_written_charges_the_reservation_and_runs_again(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        patch.setattr("worker.attempt.attempts.close", lost_database)
        with pytest.raises(RunAgain, match="database is away"):
            run(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = session.get_one(Job, job_id).created_at
    run(job_id)
    assert [attempt.state for attempt in attempts()] == [AttemptState.UNKNOWN, AttemptState.SUCCEEDED]
    spent, reserved = spent_and_reserved()
    assert (spent, reserved) == (rows_total(), 0)
    assert spent >= simulator.bill()


def lost_database(*_: Any) -> None:
    raise OperationalError("update", {}, Exception("gone"))


def test_a_job_is_kept_only_while_it_runs(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not tell SQL how it ended must not be kept alive by its process."""
    from worker import heartbeat

    job_id = submit()
    monkeypatch.setattr("worker.run.jobs.succeed", lost_database)
    with pytest.raises(RunAgain):
        run(job_id)
    assert heartbeat._running == {}
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.RUNNING
