"""The HTTP API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import anyio.to_thread
from fastapi import APIRouter, FastAPI

from api import health, jobs, models, money, problems
from api.docs import describe
from api.guard import Guard, Rate
from api.settings import ApiSettings
from api.waiting import Waiting
from db.environment import read_settings
from worker.checks import check_database, check_settings

# Routes that wait for SQL, Redis or the broker run on threads: no more than the database has connections for (25).
THREADS = 20

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
    app.state.rate = Rate(settings.api_requests_per_minute)
    v1 = APIRouter(prefix="/api/v1")
    for router in (jobs.router, models.router, money.router):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health.router)
    problems.install(app)
    app.add_middleware(Guard, settings=settings, rate=app.state.rate)
    document = describe(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _version() -> str:
    try:
        return version("paymaster")
    except PackageNotFoundError:  # run from a folder
        return "0"
