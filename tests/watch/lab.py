"""What the tests of alerts share: how calls end and money is spent, and what SQL holds of alerts."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select, update

from budget.ledger import ledger
from budget.money import usd_to_nano
from db.models import Alert, Attempt, AttemptState, Delivery, Job, utc_now
from db.session import read, write

MARKER = "a-secret-posting-of-somebody"


def alerts() -> list[tuple[str, str, str]]:
    with read() as session:
        return [(row.kind, row.subject, row.threshold) for row in session.scalars(select(Alert).order_by(Alert.id))]


def opened() -> list[str]:
    with read() as session:
        return list(session.scalars(select(Alert.kind).where(Alert.cleared_at.is_(None)).order_by(Alert.kind)))


def ways() -> list[Delivery]:
    with read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.alert_id, Delivery.channel)))


def make_due() -> None:
    with write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=past))


def calls(
    count: int, *, model: str = "gpt-4o", ok: bool = True, user: str | None = None, ago_s: float = 5, **fields: Any
) -> None:
    """Calls that have ended, in SQL only."""
    settled = utc_now() - timedelta(seconds=ago_s)
    row = {
        "number": 1, "part": 0, "model_name": model, "provider": "p", "task_type": "parse", "strategy": "balanced",
        "reason": "r", "budget_day": "2026-11-22", "budget_month": "2026-11", "reserved_nano": 1, "cost_nano": 1,
        "state": AttemptState.SUCCEEDED if ok else AttemptState.FAILED, "success": ok, "user_id": user,
        "processing_time_ms": 100, "quality_score": 0.9 if ok else None, "settled_at": settled, "created_at": settled,
        **fields,
    }  # fmt: skip
    ids = [uuid4().hex for _ in range(count)]
    with write() as session:
        job = {"kind": "parse", "queue": "parse", "payload": {"job_description": MARKER}}
        session.execute(insert(Job), [{"id": one, **job} for one in ids])
        session.execute(insert(Attempt), [{"id": one, "job_id": one, **row} for one in ids])


def spend(usd: str, user: str | None = None) -> None:
    """Spend in the ledger, and show the user's call in SQL."""
    amount, attempt = usd_to_nano(usd), uuid4().hex
    held = ledger().reserve(attempt, amount, job_id="x", user_id=user, job_cap=None, lease_s=600)
    ledger().settle(attempt, held.scope_keys, amount)
    if user is not None:
        calls(1, user=user)
