"""What service objectives are measured by: time and failures of models, quality of strategies, over a window."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, func, select
from sqlalchemy.orm import Session

from db.models import Attempt, CostBasis
from db.percentiles import rank, within
from db.statistics import NOT_THE_MODELS

# the prompt's doing, which says nothing of the model either
NOT_A_FAULT = (*NOT_THE_MODELS, "context_length_exceeded", "content_policy_violation")
# a cost that was put right by hand makes no old call a new one
_NOT_BY_HAND = func.coalesce(Attempt.cost_basis, "") != CostBasis.BY_HAND


def of_models(session: Session, since: datetime) -> Sequence[Row[Any]]:
    """Per model, of the calls that ended since then: `calls`, how many `failed`, how many `timed` ones succeeded, and
    the `p95_ms` of those."""
    counts = Attempt.error_code.is_(None) | Attempt.error_code.not_in(NOT_A_FAULT)
    timed = Attempt.success & Attempt.processing_time_ms.is_not(None)
    calls = (
        select(Attempt.model_name, Attempt.success, Attempt.processing_time_ms, timed.label("timed"))
        .where(Attempt.settled_at >= since, Attempt.success.is_not(None), counts, _NOT_BY_HAND)
        .subquery()
    )
    ranked = select(calls, rank(calls.c.processing_time_ms, (calls.c.model_name, calls.c.timed))).subquery()
    return session.execute(
        select(
            ranked.c.model_name,
            func.count().label("calls"),
            func.sum(case((ranked.c.success, 0), else_=1)).label("failed"),
            func.sum(case((ranked.c.timed, 1), else_=0)).label("timed"),
            within(95, ranked, ranked.c.processing_time_ms, ranked.c.timed).label("p95_ms"),
        ).group_by(ranked.c.model_name)
    ).all()


def of_strategies(session: Session, since: datetime) -> Sequence[Row[Any]]:
    """Per strategy, of the answers that came since then and were scored: how many `answers`, and their `quality`."""
    scored = Attempt.success & Attempt.quality_score.is_not(None)
    return session.execute(
        select(Attempt.strategy, func.count().label("answers"), func.avg(Attempt.quality_score).label("quality"))
        .where(Attempt.settled_at >= since, scored, _NOT_BY_HAND)
        .group_by(Attempt.strategy)
    ).all()
