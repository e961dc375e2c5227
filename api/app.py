"""The HTTP API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI

from api import health, jobs, models, money, pages, problems, reports
from api.docs import describe
from api.guard import Guard, Rate
from api.reading import no_other_parameters
from api.settings import ApiSettings
from api.waiting import Waiting
from api.writing import THREADS
from db.environment import read_settings
from worker.checks import check_database, check_settings

DESCRIPTION = (
    "LLM jobs with budgets that cannot be overrun: submit, poll, compare models, set the strategy, see what it costs. "
    "Errors are problem details (RFC 9457)."
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    await app.state.rate.close()


def create_app() -> FastAPI:
    """The application; a `SettingsError` names the first variable that cannot be used."""
    check_settings()
    check_database()
    settings = read_settings(ApiSettings)
    app = FastAPI(
        title="Paymaster", version=_version(), description=DESCRIPTION, openapi_url="/api/v1/openapi.json",
        # their pages load scripts from elsewhere
        docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=_lifespan,
    )  # fmt: skip
    app.state.waiting = Waiting()
    app.state.readiness = health.Readiness(health.PROBES)
    app.state.rate = Rate(settings.api_requests_per_minute)
    v1 = APIRouter(prefix="/api/v1", dependencies=[Depends(no_other_parameters)])
    for router in (jobs.router, models.router, money.router, reports.router):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health.router)
    app.include_router(reports.metrics_router)
    app.include_router(pages.router, include_in_schema=False)
    problems.install(app)
    app.add_middleware(Guard, settings=settings, rate=app.state.rate)
    document = _document(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


_documents: list[dict[str, Any]] = []


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. Making it takes longer than all the rest, and it is the same for every application."""
    if not _documents:
        _documents.append(describe(app))
    return _documents[0]


def _version() -> str:
    try:
        return version("paymaster")
    except PackageNotFoundError:  # run from a folder
        return "0"
