"""Whether the API lives, and whether it could get a job done."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Request
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api import schemas
from api.money import quick_look
from api.reading import answer
from db.session import read
from worker.app import app as celery_app

OK = "ok"
# probes come often, and asking the workers takes a while
EVERY_S = 2.0
ANSWER_WITHIN_S = 3
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
async def readyz(request: Request) -> Response:
    """Redis, SQL, the broker, and a worker for every queue; as they were at most a few seconds ago."""
    found = await request.app.state.readiness.look()
    ready = all(state == OK for state in found.values())
    return answer({"ready": ready, **found}, 200 if ready else 503)


class Readiness:
    """How the parts are. Each is asked on a thread of its own, and by one at a time: one that hangs is told of as such,
    and neither holds up the answer nor takes the threads of other requests."""

    def __init__(self, probes: Mapping[str, Callable[[], str]]) -> None:
        self._probes = probes
        self._threads = anyio.CapacityLimiter(len(probes))
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._asked_at = float("-inf")

    async def look(self) -> dict[str, str]:
        """What each part says: `ok`, or what is missing."""
        if time.monotonic() - self._asked_at > EVERY_S:
            self._asked_at = time.monotonic()
            for name, probe in self._probes.items():
                if name not in self._asked or self._asked[name].done():
                    asked = to_thread.run_sync(probe, limiter=self._threads, abandon_on_cancel=True)
                    self._asked[name] = asyncio.ensure_future(asked)
        await asyncio.wait(self._asked.values(), timeout=ANSWER_WITHIN_S)
        return {
            name: told.result() if told.done() else f"gives no answer within {ANSWER_WITHIN_S} s"
            for name, told in self._asked.items()
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


PROBES = {"redis": _redis, "database": _database, "broker": _broker, "workers": _workers}
