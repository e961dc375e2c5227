"""Whether the API lives, and whether it could get a job done."""

from typing import Any

from fastapi import APIRouter
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api import schemas
from api.money import quick_look
from api.reading import answer
from db.once import once_per_environment
from db.session import read
from worker.app import app as celery_app
from worker.renewed import Renewed

OK = "ok"
# probes come often, and asking the workers takes a while
EVERY_S = 2.0
WORKERS_WITHIN_S = 1.0
CONNECT_WITHIN_S = 1

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"model": schemas.Health}}, response_model=None)
async def healthz() -> Response:
    """The process is alive."""
    return answer({"status": "alive"})


@router.get(
    "/readyz",
    response_model=None,
    responses={200: {"model": schemas.Readiness}, 503: {"model": schemas.Readiness, "description": "What is missing."}},
)
def readyz() -> Response:
    """Redis, SQL, the broker, and a worker for every queue; as they were at most a few seconds ago."""
    found = _looked()()
    ready = all(state == OK for state in found.values())
    return answer({"ready": ready, **found}, 200 if ready else 503)


@once_per_environment
def _looked() -> Renewed[dict[str, str]]:
    return Renewed("readiness", _look, {}, EVERY_S)


def _look() -> dict[str, str]:
    broker = _broker()
    return {
        "redis": _redis(),
        "database": _database(),
        "broker": broker,
        "workers": _workers() if broker == OK else "cannot be asked without the broker",
    }


def _redis() -> str:
    try:
        quick_look().ledger.client.ping()
    except RedisError as error:
        return f"gives no answer ({type(error).__name__})"
    return OK


def _database() -> str:
    try:
        with read() as session:
            session.execute(text("select count(*) from jobs where id = ''"))
    except SQLAlchemyError as error:
        return f"gives no usable answer ({type(error).__name__})"
    return OK


def _broker() -> str:
    try:
        with celery_app.connection_for_write(connect_timeout=CONNECT_WITHIN_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=CONNECT_WITHIN_S)
    except Exception as error:  # each transport has errors of its own
        return f"gives no answer ({type(error).__name__})"
    return OK


def _workers() -> str:
    """Which queues nobody serves."""
    try:
        replies: Any = celery_app.control.inspect(timeout=WORKERS_WITHIN_S).active_queues() or {}
    except Exception as error:  # as above
        return f"cannot be asked ({type(error).__name__})"
    served = {queue["name"] for queues in replies.values() for queue in queues}
    missing = [name for name in celery_app.amqp.queues if name not in served]
    return f"nobody serves {', '.join(missing)}" if missing else OK
