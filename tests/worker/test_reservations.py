"""Every way that a call can end, and what becomes of its reservation: through real litellm over HTTP, with the
simulator's bill as referee. The ledger may hold more than the bill, never less."""

from typing import Any

import pytest

from db.models import AttemptState, Job, JobState
from db.session import read
from tasks.kinds import Embed, Generate, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import POSTING, allow_daily, attempts, rows_total, run, run_to_the_end, spent_and_reserved, submit
from worker.errors import JobFailed
from worker.run import RunAgain

pytestmark = pytest.mark.xdist_group("litellm")


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
        assert (job.state, job.error_code) == (JobState.FAILED, "budget_never_fits")


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
