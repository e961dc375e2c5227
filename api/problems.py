"""Errors as problem details (RFC 9457). A detail is one sentence that names the field, without a prompt in it."""

import json
import math
import re
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from budget.errors import BudgetExceeded, LedgerError
from budget.money import nano_to_usd
from budget.scopes import TITLES
from db.models import Job, JobState
from db.retention import sentence
from worker.errors import InvalidJob

MEDIA_TYPE = "application/problem+json"
TYPES = "urn:problem-type:paymaster:"
AWAY_S = 5

# What HTTP's own words for a status leave open.
TITLE_OF = {
    "invalid": "The input cannot be accepted as it stands",
    "budget": "A budget has no room for the job",
    "budget_never_fits": "The job is larger than a budget",
    "unavailable": "A part of the system is away",
    "pruned": "The job's input and result are not kept any more",
    "internal": "Something went wrong in the program",
}
STATUS_OF = {"invalid": 422, "budget": 402, "budget_never_fits": 402}
# `parse: field texts.0: …`, `parse: model: …`
_FIELD = re.compile(r"(?:[a-z]+: )?(?:field )?([a-z_][a-z0-9_.]*)(?::| is | was )")


class Problem(Exception):
    """A request that is refused. `code` is the last word of the problem's type; `told` are further members."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **told: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.body = problem(status, code, detail, **told)

    def response(self) -> Response:
        return Response(json.dumps(self.body), self.status, self.headers, MEDIA_TYPE)


def problem(status: int, code: str, detail: str, **told: Any) -> dict[str, Any]:
    """The problem as JSON."""
    members = {"type": TYPES + code, "title": TITLE_OF.get(code, code.replace("_", " ").capitalize()), "status": status}
    return {**members, "detail": detail, **{name: value for name, value in told.items() if value is not None}}


def invalid_job(error: InvalidJob) -> Problem:
    """The job's own fault, by the sentence that a Celery submitter gets as well."""
    found = _FIELD.match(str(error))
    return Problem(422, "invalid", str(error), field=found and found[1])


def over_budget(exceeded: BudgetExceeded) -> Problem:
    """A budget has no room. With `Retry-After` where waiting helps: not if the job never fits, nor at a stop."""
    headers, resets_at = {}, None
    if exceeded.resets_at is not None and not exceeded.never_fits and exceeded.limit > 0:
        headers = {"Retry-After": str(max(1, math.ceil(exceeded.resets_at - time.time())))}
        resets_at = datetime.fromtimestamp(exceeded.resets_at, UTC).isoformat()
    amounts = {f"{name}_usd": float(nano_to_usd(getattr(exceeded, name))) for name in ("limit", "spent", "needed")}
    return Problem(
        402, exceeded.code, str(exceeded), headers=headers, scope=exceeded.scope, resets_at=resets_at, **amounts
    )


def of(job: Job) -> dict[str, Any] | None:
    """What there is to say of a job that has no result to show though it is over; None of any other."""
    if job.pruned_at is not None:
        return problem(410, "pruned", sentence(job))
    return of_failed(job) if job.state == JobState.FAILED else None


def of_failed(job: Job) -> dict[str, Any]:
    """Why a job has failed, as the problem that its submission could have been answered with."""
    code, sentence = job.error_code or "failed", job.error or "failed"
    scope = None
    if code.startswith("budget"):
        # the user's daily budget is a daily budget, too
        scope = next((name for name in sorted(TITLES, key=lambda n: -len(TITLES[n])) if TITLES[name] in sentence), None)
    return problem(STATUS_OF.get(code, 500), code, sentence, scope=scope)


def away(what: str) -> Problem:
    """A part of the system cannot be reached now."""
    return Problem(503, "unavailable", f"{what}; try again soon", headers={"Retry-After": str(AWAY_S)})


def install(app: FastAPI) -> None:
    """Answer every error of the routes with a problem."""

    def refused(_: Request, error: Any) -> Response:
        made: Problem = error
        return made.response()

    def http(request: Request, error: Any) -> Response:
        if error.status_code == 404:
            made = Problem(
                404, "not_found", "there is nothing at this address; /api/v1/openapi.json lists what there is"
            )
        elif error.status_code == 405:
            # the router names those of the first route only
            paths = request.app.openapi()["paths"].items()
            methods = {m for path, taken in paths if compile_path(path)[0].match(request.scope["path"]) for m in taken}
            headers = {"Allow": ", ".join(sorted(methods)).upper()}
            made = Problem(405, "method_not_allowed", f"this address takes {headers['Allow']} only", headers=headers)
        else:
            made = Problem(error.status_code, "http", str(error.detail), headers=dict(error.headers or {}))
        return made.response()

    def parameters(_: Request, error: Any) -> Response:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"][1:])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"].startswith("date"):
            message = "give a day or a time in ISO 8601, such as 2026-11-22 or 2026-11-22T08:00:00Z"
        return Problem(422, "parameter", f"{field}: {message}", field=field).response()

    def database(_: Request, error: Any) -> Response:
        return away(f"the database gives no usable answer ({type(error).__name__})").response()

    def no_ledger(_: Request, error: Any) -> Response:
        return away(str(error)).response()

    handlers: dict[Any, Any] = {
        Problem: refused,
        HTTPException: http,
        RequestValidationError: parameters,
        SQLAlchemyError: database,
        LedgerError: no_ledger,
        InvalidJob: lambda _, error: invalid_job(error).response(),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
