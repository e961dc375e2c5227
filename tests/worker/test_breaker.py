"""A model that fails too often is left alone, by all workers, at no cost to anybody; and tried again."""

import time
from datetime import timedelta

import pytest

from budget.breaker import BreakerState, Told, Verdict, breakers
from budget.connection import connect
from budget.ledger import Ledger, ledger
from budget.scopes import breaker_key
from budget.settings import BreakerSettings
from db.changes import latest
from db.models import CostBasis, Job, JobState, utc_now
from db.session import read
from tasks.kinds import Embed
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, attempts, rows_total, run, run_to_the_end, spent_and_reserved, submit
from worker.errors import Deferred, JobFailed, RunAgain

pytestmark = pytest.mark.xdist_group("litellm")
GPT, CLAUDE = "gpt-4o", "claude-sonnet-4-20250514"


@pytest.fixture(autouse=True)
def _touchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breakers that open at four failures in a minute, and close for a second."""
    monkeypatch.setenv("BREAKER_MIN_CALLS", "4")
    monkeypatch.setenv("BREAKER_COOLDOWN_S", "1")


def state(model: str = GPT) -> BreakerState:
    return breakers(ledger().client, [model])[0].state


def call(ledger_: Ledger, name: str, verdict: str, model: str = GPT, closed_for_s: int = 0) -> BreakerState | None:
    """One call to a model and its end, without a provider."""
    held = ledger_.reserve(name, 5, model=model, job_id="j", user_id=None, job_cap=None, lease_s=60, probe_s=60)
    told = Told(Verdict(verdict), closed_for_s)
    return ledger_.conclude(name, held.scope_keys, CostBasis.NOT_BILLED, 0, model, told)


def open_it(model: str = GPT) -> None:
    changes = [call(ledger(), f"{model}-{n}-{time.monotonic_ns()}", "bad", model) for n in range(4)]
    assert changes == [None, None, None, BreakerState.OPEN]


def test_a_dead_model_is_passed_over_at_no_cost_once_its_breaker_is_open(simulator: Simulator) -> None:
    ledger()._breaker_args[3] = 60
    simulator.fault(fault="status", status=500, model=GPT)
    for _ in range(2):
        run_to_the_end(submit())
    assert state() is BreakerState.OPEN
    before = simulator.requests()
    metadata = run(submit())["processing_metadata"]
    assert simulator.requests() == before + 1
    assert (metadata["model_used"], metadata["fallback_used"]) == (CLAUDE, True)
    assert metadata["selection_reason"] == "fallback_after_breaker_open"
    assert len(metadata["attempts"]) == 1
    assert spent_and_reserved() == (rows_total(), 0)
    with read() as session:
        assert [(c.what, c.subject, c.after) for c in latest(session, 9)] == [("breaker", GPT, "open")]


def test_one_probe_decides_whether_it_closes(simulator: Simulator) -> None:
    open_it()
    time.sleep(1.1)
    assert state() is BreakerState.HALF_OPEN
    assert run(submit())["processing_metadata"]["model_used"] == GPT
    assert state() is BreakerState.CLOSED
    with read() as session:
        assert [c.after for c in latest(session, 9)] == ["closed", "half_open"]


def test_a_probe_that_fails_opens_it_again(simulator: Simulator) -> None:
    open_it()
    time.sleep(1.1)
    simulator.fault(fault="status", status=500, model=GPT)
    with pytest.raises(RunAgain):
        run(submit())
    # not its state by now: it is closed for a second only
    with read() as session:
        assert [c.after for c in latest(session, 9)] == ["open", "half_open"]


def test_there_is_one_probe_at_a_time(simulator: Simulator) -> None:
    open_it()
    time.sleep(1.1)
    held = ledger().reserve("probe", 5, model=GPT, job_id="j", user_id=None, job_cap=None, lease_s=60)
    assert held.breaker is BreakerState.HALF_OPEN
    assert run(submit())["processing_metadata"]["model_used"] == CLAUDE
    # whoever probed was no judge of the model: the next one may try
    ledger().conclude("probe", held.scope_keys, CostBasis.NOT_BILLED, 0, GPT)
    assert run(submit())["processing_metadata"]["model_used"] == GPT


def test_a_probe_whose_worker_died_does_not_keep_it_half_open_for_ever(simulator: Simulator) -> None:
    open_it()
    time.sleep(1.1)
    ledger().reserve("dead", 5, model=GPT, job_id="j", user_id=None, job_cap=None, lease_s=60, probe_s=1)
    time.sleep(1.1)
    assert run(submit())["processing_metadata"]["model_used"] == GPT
    assert state() is BreakerState.CLOSED


def test_when_all_are_open_the_job_waits_and_is_not_burnt(simulator: Simulator) -> None:
    # the first must not be half open before the job has come to the last
    ledger()._breaker_args[3] = 15
    for model in (GPT, CLAUDE, "gpt-4o-mini"):
        open_it(model)
    job_id = submit()
    with pytest.raises(RunAgain, match="has failed too often lately") as again:
        run(job_id)
    assert 0 <= again.value.after_s <= 17
    assert attempts() == []
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.WAITING


def test_a_long_retry_after_closes_the_model_to_all_and_a_job_without_another_is_parked(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=429, retry_after=300)
    job_id = submit(Embed(), texts=["bread"])
    with pytest.raises(RunAgain) as again:
        run(job_id, Embed())
    assert again.value.after_s < 1
    with pytest.raises(Deferred, match="has failed too often lately"):
        run(job_id, Embed())
    assert simulator.requests() == 1
    with read() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.error_code, job.needed_nano) == (JobState.DEFERRED, "breaker_open", None)
    assert job.due_at is not None
    assert timedelta(seconds=280) < job.due_at - utc_now() < timedelta(seconds=310)


def test_a_short_retry_after_is_waited_for(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=429, retry_after=3)
    with pytest.raises(RunAgain) as again:
        run(submit())
    assert again.value.after_s == 3
    assert state() is BreakerState.CLOSED


@pytest.mark.parametrize("fault", ["refusal", "content_filter", "truncate"])
def test_what_is_the_prompts_fault_does_not_count(simulator: Simulator, fault: str) -> None:
    simulator.fault(fault=fault)
    for _ in range(3):
        with pytest.raises(JobFailed):
            run_to_the_end(submit(job_description=POSTING))
    assert breakers(ledger().client, [GPT])[0].failures == 0


def test_the_share_and_the_number_decide(simulator: Simulator) -> None:
    made = Ledger(
        connect(str(ledger().settings.redis_url)), ledger().settings,
        BreakerSettings(breaker_min_calls=10, breaker_failure_share="0.6"),
    )  # fmt: skip
    verdicts = ["ok"] * 4 + ["bad"] * 5
    assert [call(made, f"a{n}", verdict) for n, verdict in enumerate(verdicts)] == [None] * 9
    assert call(made, "a9", "bad") is BreakerState.OPEN  # 6 of 10


def test_calls_of_long_ago_do_not_count(simulator: Simulator) -> None:
    for n in range(3):
        call(ledger(), f"a{n}", "bad")
    client = ledger().client
    (old,) = [field for field in client.hkeys(breaker_key(GPT)) if field.startswith("bad")]
    client.hset(breaker_key(GPT), f"bad{int(old[3:]) - 20}", client.hget(breaker_key(GPT), old))
    client.hdel(breaker_key(GPT), old)
    assert call(ledger(), "a3", "bad") is None
    assert breakers(client, [GPT])[0].failures == 1


def test_a_model_that_never_fails_keeps_no_more_than_its_window(simulator: Simulator) -> None:
    client = ledger().client
    call(ledger(), "a", "ok")
    (field,) = client.hkeys(breaker_key(GPT))
    client.hset(breaker_key(GPT), mapping={f"ok{int(field[2:]) - age}": 1 for age in range(1, 100)})
    client.hdel(breaker_key(GPT), field)
    call(ledger(), "b", "ok")
    assert client.hlen(breaker_key(GPT)) <= 60 / 5 + 1


def test_a_repeated_end_of_a_call_counts_once(simulator: Simulator) -> None:
    held = ledger().reserve("a", 5, model=GPT, job_id="j", user_id=None, job_cap=None, lease_s=60)
    for _ in range(6):
        ledger().conclude("a", held.scope_keys, CostBasis.NOT_BILLED, 0, GPT, Told(Verdict.BAD))
    assert breakers(ledger().client, [GPT])[0].calls == 1


def test_every_key_of_a_breaker_goes_by_itself(simulator: Simulator) -> None:
    call(ledger(), "a", "ok")
    assert 0 < ledger().client.ttl(breaker_key(GPT)) < 300
    open_it(CLAUDE)
    assert ledger().client.ttl(breaker_key(CLAUDE)) > 0
