"""Writes on attempts, on the way of every job: statements built once, as in `db.jobs`."""

from typing import Any, cast

from sqlalchemy import CursorResult, Table, bindparam, insert, update
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, utc_now

_TABLE = cast("Table", Attempt.__table__)

# what is known of a call when it has ended
OUTCOME = (
    "state", "success", "cost_nano", "error_class", "error_code", "error", "tokens_used", "input_tokens",
    "output_tokens", "cached_tokens", "reasoning_tokens", "processing_time_ms", "quality_score", "settled_at",
)  # fmt: skip

_RECORD = insert(_TABLE)
_CLOSE = (
    update(_TABLE)
    .where(_TABLE.c.id == bindparam("attempt_id"), _TABLE.c.state == AttemptState.CALLING)
    .values({name: bindparam(f"new_{name}") for name in OUTCOME})
)


def record(session: Session, row: dict[str, Any]) -> None:
    """Write a new attempt as `calling`; `row` holds its columns by name."""
    session.execute(_RECORD, {**row, "state": AttemptState.CALLING, "created_at": utc_now()})


def close(session: Session, attempt_id: str, values: dict[str, Any]) -> bool:
    """Write the outcome of a call, columns by name; what is not named becomes null. False, and nothing written,
    if the attempt is closed already."""
    outcome = {**values, "settled_at": utc_now()}
    parameters = {f"new_{name}": outcome.get(name) for name in OUTCOME}
    done = session.execute(_CLOSE, {"attempt_id": attempt_id, **parameters})
    return cast("CursorResult[Any]", done).rowcount == 1
