"""Models over HTTP: the registry, how models did, and the strategy."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, ValidationError
from sqlalchemy.orm import Session
from starlette.responses import Response

from api import schemas
from api.access import Caller, needs
from api.docs import answers, takes
from api.money import quick_look
from api.problems import Problem
from api.reading import Body, answer, read_object
from api.settings import Role
from api.writing import writing
from budget.breaker import breakers
from budget.errors import LedgerError
from db import statistics
from db.models import Attempt, utc_now
from db.session import read
from selection.adaptive import Record
from selection.errors import UnknownStrategy
from selection.recommend import Recommendations, merged, recommend
from selection.registry import load_registry
from selection.strategies import load_strategies, model_kind, offered
from worker.strategy import set_strategy, strategy_in_force

WINDOW = timedelta(days=30)
# The record of a model is that of its latest calls for each kind of job.
LATEST_CALLS = 200
# addresses and names of keys are nobody's business
HIDDEN = {"api_base", "api_key_env", "api_version", "litellm", "base_model"}

Anybody = Annotated[Caller, Depends(needs(Role.SUBMIT, Role.READ))]
Admin = Annotated[Caller, Depends(needs(Role.ADMIN, unbound=True))]


def _in_utc(moment: datetime) -> datetime:
    if not 2000 <= moment.year < 2200:
        raise ValueError("give a time between the years 2000 and 2200")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Since = Annotated[
    datetime, AfterValidator(_in_utc), Query(description="Calls since then, in ISO 8601; 30 days by default.")
]

router = APIRouter(prefix="/models", tags=["models"])


@router.get("/", **answers(200, schemas.Models))
def list_models(caller: Anybody) -> Response:
    """The registry, and the breaker of each model; null while Redis is away."""
    registry = load_registry()
    try:
        states = {one.model: one.row for one in breakers(quick_look().ledger.client, [*registry.models])}
    except LedgerError:
        states = {}
    rows = [m.model_dump(exclude=HIDDEN) | {"breaker": states.get(m.id)} for m in registry.models.values()]
    return answer({"models": rows})


@router.get("/performance/", **answers(200, schemas.Performance))
def get_performance(
    caller: Anybody, since: Since | None = None, by: Literal["model", "strategy"] = "model"
) -> Response:
    """How models did, or with `by=strategy` strategies, and which models that recommends (docs/api.md has the rule)."""
    start = since or utc_now() - WINDOW
    group = Attempt.model_name if by == "model" else Attempt.strategy
    with read() as session:
        rows = statistics.performance(session, start, group)
        recommended = _recommended(session, start)
    return answer({f"{by}_performance": {row.name: _figures(row) for row in rows}, "recommendations": recommended})


def _figures(row: Any) -> dict[str, Any]:
    return {
        "avg_processing_time_ms": None if row.milliseconds is None else round(float(row.milliseconds), 1),
        "avg_cost_per_generation": round(int(row.cost) / row.jobs / 10**9, 9),
        "avg_quality_score": None if row.quality is None else round(float(row.quality), 4),
        "success_rate": round(int(row.succeeded) / int(row.calls), 4) if row.calls else None,
        "total_generations": row.jobs,
    }


def _recommended(session: Session, since: datetime) -> Recommendations:
    records: dict[str, list[Record]] = {}
    for row in statistics.by_model(session, since, LATEST_CALLS):
        if model_kind(row.task_type) == "chat":
            quality = None if row.quality is None else float(row.quality)
            record = Record(row.calls, int(row.cost), int(row.succeeded), int(row.tokens), row.p95_ms, quality)
            records.setdefault(row.model_name, []).append(record)
    return recommend({name: merged(found) for name, found in records.items()}, load_registry(), load_strategies())


@router.get("/settings/", **answers(200, schemas.Settings))
def get_settings(caller: Anybody) -> Response:
    """The current strategy, and what may be chosen."""
    return answer(_settings())


@router.put("/settings/", **answers(200, schemas.Settings), **takes("NewSettings", {"strategy": "quality_optimized"}))
@writing
def put_settings(caller: Admin, body: Body) -> Response:
    """Let every worker use another strategy within a second; who did so is recorded."""
    try:
        wanted = schemas.NewSettings.model_validate(read_object(body), strict=True)
        set_strategy(wanted.strategy, caller.who)
    except ValidationError:
        raise Problem(422, "invalid", "field strategy: give its name, and nothing else", field="strategy") from None
    except UnknownStrategy as error:
        raise Problem(422, "invalid", str(error), field="strategy", known=offered()) from None
    return answer(_settings())


def _settings() -> dict[str, Any]:
    registry = load_registry()
    return {
        "current_strategy": strategy_in_force(),
        "available_strategies": offered(),
        "available_models": {
            "chat": [model.id for model in registry.offered("chat")],
            "embedding": [model.id for model in registry.offered("embedding")],
        },
    }
