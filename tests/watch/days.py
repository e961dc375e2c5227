"""Days of calls, as the tests of the report need them."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from db.models import Attempt, AttemptState, CostBasis, Job, JobState
from db.session import write

DAY = "2025-11-20"
NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)


def call(day: str = DAY, *, job: str | None = None, job_state: JobState = JobState.SUCCEEDED, **fields: Any) -> str:
    """One call of a job, which is made if it is new; returns the attempt's id. What it cost is known and 10 nano-USD,
    unless told otherwise."""
    state = fields.get("state", AttemptState.SUCCEEDED)
    job_id = job or uuid4().hex
    row = {
        "id": uuid4().hex, "number": 1, "state": state, "model_name": "gpt-4o", "provider": "openai",
        "task_type": "parse", "strategy": "balanced", "reason": "balanced_strategy_general_complexity",
        "budget_day": day, "budget_month": day[:7], "reserved_nano": 100, "cost_nano": 10,
        "cost_basis": CostBasis.USAGE, "success": state == AttemptState.SUCCEEDED, "tokens_used": 0,
        "processing_time_ms": 1000, "quality_score": 0.9, "created_at": NOON, "settled_at": NOON,
    }  # fmt: skip
    if state == AttemptState.CALLING:
        row |= {"cost_nano": 0, "cost_basis": None, "success": None, "settled_at": None}
    row |= fields
    with write() as session:
        if session.get(Job, job_id) is None:
            session.add(Job(id=job_id, kind=row["task_type"], state=job_state, queue="parse", payload={}))
            session.flush()
        session.add(Attempt(job_id=job_id, **row))
    return str(row["id"])


def unknown(day: str = DAY, **fields: Any) -> str:
    """A call whose cost nobody knows."""
    return call(
        day, **{"state": AttemptState.UNKNOWN, "cost_basis": CostBasis.RESERVATION, "cost_nano": 100,
                "error_code": "timeout", "job_state": JobState.FAILED, **fields},
    )  # fmt: skip
