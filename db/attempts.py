"""Queries on attempts. The writes are on the way of every job: statements built once, as in `db.jobs`."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, Table, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from db.models import IS_UNKNOWN, Attempt, AttemptState, CostBasis, utc_now

_TABLE = cast("Table", Attempt.__table__)

# the error of an attempt whose runner gave no more sign of life
RUNNER_LOST = "runner_lost"

# what is known of a call when it has ended
OUTCOME = (
    "state", "success", "cost_nano", "cost_basis", "error_class", "error_code", "error", "tokens_used", "input_tokens",
    "output_tokens", "cached_tokens", "reasoning_tokens", "overhead_ms", "processing_time_ms", "quality_score",
    "settled_at",
)  # fmt: skip

_RECORD = insert(_TABLE)
_CLOSE = (
    update(_TABLE)
    .where(_TABLE.c.id == bindparam("attempt_id"), _TABLE.c.state == AttemptState.CALLING)
    .values({name: bindparam(f"new_{name}") for name in OUTCOME})
)
_CLOSE_LATE = (
    update(_TABLE)
    .where(
        _TABLE.c.id == bindparam("attempt_id"),
        _TABLE.c.error_code == RUNNER_LOST,
        _TABLE.c.cost_basis == CostBasis.RESERVATION,
    )
    .values({name: bindparam(f"new_{name}") for name in OUTCOME})
)


def record(session: Session, row: dict[str, Any]) -> None:
    """Write a new attempt as `calling`; `row` holds its columns by name."""
    session.execute(_RECORD, {**row, "state": AttemptState.CALLING, "created_at": utc_now()})


def close(session: Session, attempt_id: str, values: dict[str, Any]) -> bool:
    """Write the outcome of a call, columns by name; what is not named becomes null. False, and nothing written,
    if the attempt is closed already."""
    return _write_outcome(session, _CLOSE, attempt_id, values)


def close_late(session: Session, attempt_id: str, values: dict[str, Any]) -> bool:
    """The same for an attempt whose runner was taken for dead: its outcome is known after all. False, and nothing
    written, if somebody knew it before."""
    return _write_outcome(session, _CLOSE_LATE, attempt_id, values)


def _write_outcome(session: Session, statement: Any, attempt_id: str, values: dict[str, Any]) -> bool:
    outcome = {**values, "settled_at": utc_now()}
    parameters = {f"new_{name}": outcome.get(name) for name in OUTCOME}
    done = session.execute(statement, {"attempt_id": attempt_id, **parameters})
    return cast("CursorResult[Any]", done).rowcount == 1


def by_prefix(session: Session, start: str) -> Sequence[Attempt]:
    """The attempt of that id, or at most two of those whose ids begin so."""
    exact = session.get(Attempt, start)
    if exact is not None:
        return [exact]
    return session.scalars(select(Attempt).where(Attempt.id.startswith(start, autoescape=True)).limit(2)).all()


def unknown(session: Session, limit: int) -> Sequence[Attempt]:
    """Attempts that are charged at their reservations since nobody knows what they cost, newest first."""
    return session.scalars(select(Attempt).where(IS_UNKNOWN).order_by(Attempt.created_at.desc()).limit(limit)).all()


def oddities(session: Session, month: str) -> tuple[int, int, int, int]:
    """Of one month: how many attempts are charged at their reservations and what that makes together, and how many
    cost more than was reserved and by how much together; amounts in nano-USD."""
    unknown = Attempt.cost_basis == CostBasis.RESERVATION
    over = (Attempt.cost_basis == CostBasis.USAGE) & (Attempt.cost_nano > Attempt.reserved_nano)
    row = session.execute(
        select(
            func.count().filter(unknown),
            func.coalesce(func.sum(Attempt.cost_nano).filter(unknown), 0),
            func.count().filter(over),
            func.coalesce(func.sum(Attempt.cost_nano - Attempt.reserved_nano).filter(over), 0),
        ).where(Attempt.budget_month == month)
    ).one()
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])
