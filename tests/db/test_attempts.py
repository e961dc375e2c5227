"""The rows of attempts: written as `calling`, closed once, and never by two."""

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from db import attempts
from db.models import Attempt, AttemptState, Job, utc_now
from db.session import read, write

pytestmark = pytest.mark.usefixtures("environment")
ROW: dict[str, Any] = {
    "id": "a", "job_id": "j", "number": 1, "part": 0, "model_name": "m", "provider": "p", "task_type": "parse",
    "user_id": "7", "api": None, "strategy": "s", "reason": "r", "budget_day": "2026-11-22",
    "budget_month": "2026-11", "reserved_nano": 900,
}  # fmt: skip
PAID: dict[str, Any] = {
    "state": AttemptState.SUCCEEDED, "success": True, "cost_nano": 700, "tokens_used": 15, "input_tokens": 10,
    "output_tokens": 5, "cached_tokens": 0, "reasoning_tokens": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _recorded(environment: None) -> None:
    with write() as session:
        session.add(Job(id="j", kind="parse", queue="parse", payload={}))
        session.flush()
        attempts.record(session, ROW)


def get() -> Attempt:
    with read() as session:
        return session.get_one(Attempt, "a")


def close(attempt_id: str = "a", **values: Any) -> bool:
    with write() as session:
        return attempts.close(session, attempt_id, {**PAID, **values})


def test_a_recorded_attempt_is_calling_and_holds_its_reservation() -> None:
    found = get()
    assert {name: getattr(found, name) for name in ROW} == ROW
    assert (found.state, found.cost_nano, found.success, found.settled_at) == (AttemptState.CALLING, 0, None, None)
    assert 0 <= (utc_now() - found.created_at).total_seconds() < 60


def test_an_attempt_is_recorded_once() -> None:
    for again in (ROW, {**ROW, "id": "b"}):
        with pytest.raises(IntegrityError), write() as session:
            attempts.record(session, again)


def test_a_closed_attempt_holds_its_outcome_and_what_is_not_named_is_null() -> None:
    assert close(quality_score=0.5)
    found = get()
    assert {name: getattr(found, name) for name in PAID} == PAID
    assert (found.quality_score, found.processing_time_ms, found.error) == (0.5, None, None)
    assert found.settled_at is not None
    assert found.reserved_nano == 900


@pytest.mark.parametrize("state", [AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.UNKNOWN])
def test_an_attempt_is_closed_once_and_the_first_outcome_stands(state: AttemptState) -> None:
    assert close(state=state)
    before = get()
    assert not close(state=AttemptState.FAILED, cost_nano=1)
    after = get()
    assert (after.state, after.cost_nano, after.settled_at) == (state, 700, before.settled_at)


def test_an_unknown_attempt_cannot_be_closed() -> None:
    assert not close("another")
    assert get().state == AttemptState.CALLING
