"""The API against its own OpenAPI document: requests that schemathesis makes of it, good ones and bad ones."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

SEED = 20261122
EXAMPLES = 25
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("/api/v1/jobs/parse/", "POST"), ("/api/v1/jobs/generate/", "POST"), ("/api/v1/jobs/embed/", "POST"),
    ("/api/v1/jobs/batch/", "POST"), ("/api/v1/jobs/{job_id}/", "GET"), ("/api/v1/jobs/{job_id}/", "DELETE"),
    ("/api/v1/jobs/", "GET"), ("/api/v1/models/", "GET"), ("/api/v1/models/performance/", "GET"),
    ("/api/v1/models/settings/", "GET"), ("/api/v1/models/settings/", "PUT"), ("/api/v1/budget/", "GET"),
    ("/api/v1/costs/daily/", "GET"), ("/api/v1/alerts/", "GET"), ("/healthz", "GET"), ("/metrics", "GET"),
    ("/api/v1/reports/", "GET"), ("/api/v1/reports/{day}/", "GET"),
]  # fmt: skip


def document(api: httpx.Client) -> Any:
    return api.get("/api/v1/openapi.json").json()


def test_every_operation_is_tried(api: httpx.Client) -> None:
    described = {(path, method.upper()) for path, one in document(api)["paths"].items() for method in one}
    # a test of its own looks at readiness, which asks the workers
    assert described - {("/readyz", "GET")} == set(OPERATIONS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_nothing_that_is_asked_breaks_the_schema(api: httpx.Client, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_dict(document(api))
    operation = schema[path][method]
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )
    print(f"seed {SEED}")
    codes: set[int] = set()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    @given(case=cases)
    def ask(case: Any) -> None:
        if isinstance(case.query, dict):
            case.query.pop("wait", None)
        answer = case.call(base_url=str(api.base_url))
        codes.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    assert max(codes) < 500
    # no job has an id that somebody makes up, and no day of theirs has a report
    assert min(codes) < 300 or "{" in path


@pytest.mark.parametrize("name", ["parse", "generate", "embed", "batch"])
def test_the_examples_of_the_document_are_accepted(api: httpx.Client, name: str) -> None:
    body = document(api)["paths"][f"/api/v1/jobs/{name}/"]["post"]["requestBody"]["content"]["application/json"]
    answer = api.post(f"/api/v1/jobs/{name}/", json=body["example"])
    assert answer.status_code == (207 if name == "batch" else 202)
    assert name != "batch" or {one["status"] for one in answer.json()["jobs"]} == {202}
