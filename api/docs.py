"""OpenAPI: what routes take and answer, with examples."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import schemas
from api.problems import MEDIA_TYPE
from selection.strategies import offered
from tasks import KINDS
from worker.strategy import DEFAULT

REF = "#/components/schemas/{model}"
# what any request may come to
ALWAYS = (400, 401, 403, 408, 413, 422, 429, 500, 503)
DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "No known bearer token.",
    402: "A budget has no room; `Retry-After` where waiting helps.",
    403: "The token may not do this.",
    404: "There is no such job.",
    408: "The body came too slowly.",
    409: "The job's state does not allow it.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    422: "A field or parameter is invalid.",
    429: "Too many requests of this token.",
    500: "A fault of the program.",
    503: "A part of the system is away.",
}

BATCH = {"jobs": [{"kind": name, **KINDS[name].kind.example} for name in ("parse", "embed")]}


def answers(status: int, model: type, *refusals: int) -> dict[str, Any]:
    """Keyword arguments of a route: it answers `status` with `model`, or one of these refusals or those of any route.
    Answers are made by the route itself, without a second pass through the model."""
    refused = {
        code: {
            "description": DESCRIPTIONS[code],
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}},
        }
        for code in sorted({*ALWAYS, *refusals})
    }
    done: dict[int, Any] = {status: {"model": model, "description": (model.__doc__ or "Done.").strip()}}
    return {"status_code": status, "response_model": None, "responses": {**done, **refused}}


def takes(model: str, example: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a route: its body is this model's JSON."""
    content = {"schema": {"$ref": REF.format(model=model)}, "example": example}
    return {"openapi_extra": {"requestBody": {"required": True, "content": {"application/json": content}}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    payloads = (task.kind.payload_type for task in KINDS.values())
    bodies: tuple[type[BaseModel], ...] = (*payloads, schemas.Batch, schemas.NewSettings, schemas.Problem)
    _, own = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
    components = made.setdefault("components", {})
    components.setdefault("schemas", {}).update(own["$defs"])
    components["schemas"]["NewSettings"]["properties"]["strategy"]["enum"] = [*offered(), DEFAULT]
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A token of API_TOKENS, where there are any."}
    }
    made["security"] = [{}, {"token": []}]
    refused = answers(200, schemas.Problem, 415)["responses"][415]
    for operations in made["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                operation["responses"]["415"] = refused
    return made
