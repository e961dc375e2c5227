"""Budgets, daily costs and alerts over HTTP, and the quick look at the ledger before a job is accepted."""

import logging
import time
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlalchemy import select, tuple_
from starlette.responses import Response

from api import schemas, views
from api.access import Caller, needs
from api.docs import answers
from api.pause import Pause
from api.problems import Problem
from api.reading import Word, answer, pack, unpack
from api.settings import Role
from budget.connection import connect
from budget.errors import LedgerError
from budget.ledger import Ledger, ScopeUse
from budget.money import nano_to_usd
from budget.settings import BudgetSettings
from db.environment import read_settings
from db.models import Alert, DailyCost, Delivery
from db.once import once_per_environment
from db.session import read

QUICK_S = 0.25
LARGEST_ID = 2**31 - 1

Reader = Annotated[Caller, Depends(needs(Role.READ))]
ReaderOfAll = Annotated[Caller, Depends(needs(Role.READ, unbound=True))]
Cursor = Annotated[str | None, Query(max_length=600, description="`next` of the page before.")]

logger = logging.getLogger(__name__)
router = APIRouter(tags=["money"])


class QuickLook:
    """The ledger for looking only: it answers at once or not at all."""

    def __init__(self) -> None:
        settings = read_settings(BudgetSettings)
        self.ledger = Ledger(connect(settings.redis_url, QUICK_S), settings)
        self._pause = Pause()

    def uses_of(self, user_id: str | None) -> list[ScopeUse]:
        """How the budgets stand that a job of this user must fit in; none while the ledger is away or cold."""
        if self._pause.lasts:
            return []
        try:
            return self.ledger.usage(user_id=user_id, moment=time.time())
        except LedgerError as error:
            self._pause.begin()
            logger.warning("budgets are not looked at for a moment: %s", error)
            return []


@once_per_environment
def quick_look() -> QuickLook:
    """The quick look of this process."""
    return QuickLook()


def uses_of(user_id: str | None) -> list[ScopeUse]:
    """See `QuickLook`."""
    return quick_look().uses_of(user_id)


@router.get("/budget/", **answers(200, schemas.Budgets))
def get_budget(caller: Reader, user_id: Word | None = None) -> Response:
    """How the budgets stand: limit, spent, reserved, left, and when each starts anew. A user's with `user_id`."""
    user = caller.only(user_id)
    uses = quick_look().ledger.usage(user_id=user)
    return answer({"budgets": [views.scope_row(use) for use in uses if caller.user_id is None or use.name == "user"]})


@router.get("/costs/daily/", **answers(200, schemas.DailyCosts))
def get_daily_costs(
    caller: Reader,
    since: Annotated[date | None, Query(description="The first day.")] = None,
    until: Annotated[date | None, Query(description="The last day.")] = None,
    user_id: Word | None = None,
    model: Word | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> Response:
    """What each day cost by user, model, kind of job, API and strategy; the latest day first."""
    key = (DailyCost.user_id, DailyCost.model_name, DailyCost.task_type, DailyCost.api, DailyCost.strategy)
    query = select(DailyCost).order_by(DailyCost.date.desc(), *key).limit(limit + 1)
    if (user := caller.only(user_id)) is not None:
        query = query.where(DailyCost.user_id == user)
    if model is not None:
        query = query.where(DailyCost.model_name == model)
    if since is not None:
        query = query.where(DailyCost.date >= since.isoformat())
    if until is not None:
        query = query.where(DailyCost.date <= until.isoformat())
    if cursor is not None:
        day, *rest = unpack(cursor, *[str] * 6)
        query = query.where((DailyCost.date < day) | ((DailyCost.date == day) & (tuple_(*key) > tuple(rest))))
    with read() as session:
        found = session.scalars(query).all()
        last = found[limit - 1] if len(found) > limit else None
        after = last and pack(last.date, *(getattr(last, column.key) for column in key))
        return answer({"costs": [_cost_row(row) for row in found[:limit]], "next": after})


def _cost_row(row: DailyCost) -> dict[str, Any]:
    names = ("date", "model_name", "task_type", "strategy", "generation_count", "attempts", "failures")
    each = None if not row.generation_count else round(row.total_cost_nano / row.generation_count / 10**9, 9)
    return {
        **{name: getattr(row, name) for name in (*names, "input_tokens", "output_tokens")},
        "user_id": row.user_id or None,
        "api": row.api or None,
        "total_cost_usd": nano_to_usd(row.total_cost_nano),
        "avg_cost_per_generation": each,
    }


@router.get("/alerts/", **answers(200, schemas.Alerts))
def get_alerts(caller: ReaderOfAll, limit: Annotated[int, Query(ge=1, le=500)] = 50, cursor: Cursor = None) -> Response:
    """Alerts, newest first, each with its deliveries."""
    query = select(Alert).order_by(Alert.id.desc()).limit(limit + 1)
    if cursor is not None:
        (before,) = unpack(cursor, int)
        if not 0 <= before <= LARGEST_ID:
            raise Problem(422, "parameter", "cursor: give `next` of the page before, unchanged", field="cursor")
        query = query.where(Alert.id < before)
    with read() as session:
        found = session.scalars(query).all()
        rows = found[:limit]
        sent = session.scalars(select(Delivery).where(Delivery.alert_id.in_([row.id for row in rows])))
        deliveries: dict[int, list[Delivery]] = {}
        for delivery in sent:
            deliveries.setdefault(delivery.alert_id, []).append(delivery)
        shown = [_alert_row(row, deliveries.get(row.id, [])) for row in rows]
        return answer({"alerts": shown, "next": pack(rows[-1].id) if len(found) > limit else None})


def _alert_row(alert: Alert, deliveries: list[Delivery]) -> dict[str, Any]:
    names = ("id", "kind", "subject", "period", "threshold", "message", "created_at", "cleared_at")
    sent = [
        {name: getattr(delivery, name) for name in ("channel", "tries", "sent_at", "error")} for delivery in deliveries
    ]
    return {**{name: getattr(alert, name) for name in names}, "deliveries": sent}
