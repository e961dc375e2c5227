"""Real litellm against the simulator: what it sends, what it makes of answers, and how errors surface.

All tests here share one import of litellm (seconds) and one event loop, hence one xdist group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from jsonschema import validate  # type: ignore[import-untyped]  # comes with litellm, without types

from worker.loop import run_on_loop

pytestmark = pytest.mark.xdist_group("litellm")


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read by the import: no network
    import litellm

    litellm.suppress_debug_info = True
    return litellm


@pytest.fixture(scope="module")
def run(litellm: Any) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """The workers' loop: litellm's own tasks stay on the first loop that a process runs it on."""
    return run_on_loop


@pytest.fixture
def complete(sim: Any, litellm: Any, run: Any, posting: str) -> Callable[..., Any]:
    """Call a chat model as the project does: litellm's name, the provider's base, no retries."""

    def call(model: str, **more: Any) -> Any:
        base = {"openai": "/v1", "anthropic": "", "azure": ""}[model.partition("/")[0]]
        asked = {
            "messages": [{"role": "system", "content": "Parse."}, {"role": "user", "content": posting}],
            "max_tokens": 1000,
            "max_retries": 0,
            "timeout": 10,
            "api_key": "sk-test",
            "api_base": sim.url + base,
        }
        return run(litellm.acompletion(model=model, **{**asked, **more}))

    return call


def described(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "posting", "strict": True, "schema": schema}}


MODELS = ["openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-20250514"]


@pytest.mark.parametrize("model", MODELS)
def test_schema_true_answers_with_the_billed_usage(sim: Any, complete: Any, schema: Any, model: str) -> None:
    answer = complete(model, response_format=described(schema))
    validate(json.loads(answer.choices[0].message.content), schema)
    assert answer.choices[0].finish_reason == "stop"
    (entry,) = sim.bill("?entries=1")["entries"]
    assert answer.usage.prompt_tokens == entry["input_tokens"]
    assert answer.usage.completion_tokens == entry["output_tokens"]


def test_claude_gets_a_forced_tool_call(sim: Any, complete: Any, schema: Any) -> None:
    complete("anthropic/claude-sonnet-4-20250514", response_format=described(schema))
    (entry,) = sim.bill("?entries=1")["entries"]
    # Without tools the same messages are far below the 346 tokens that tool use adds.
    complete("anthropic/claude-sonnet-4-20250514")
    plain = sim.bill("?entries=1")["entries"][1]
    assert entry["input_tokens"] > plain["input_tokens"] + 346
    # litellm calls a forced tool that was cut finished: only the missing fields tell.
    cut = complete("anthropic/claude-sonnet-4-20250514", response_format=described(schema), max_tokens=40)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("stop", 40)
    assert set(schema["required"]) - json.loads(cut.choices[0].message.content).keys()


def test_azure_goes_to_its_deployment(sim: Any, complete: Any) -> None:
    complete("azure/gpt4o-2", api_version="2024-10-21")
    assert sim.bill()["models"]["azure-gpt-4o"]["requests"] == 1


def test_embeddings(sim: Any, litellm: Any, run: Any) -> None:
    found = run(
        litellm.aembedding(
            model="openai/text-embedding-3-small",
            input=["hello world", "a"],
            api_base=sim.url + "/v1",
            api_key="sk-test",
        )
    )
    assert [len(item["embedding"]) for item in found.data] == [1536, 1536]
    assert found.usage.prompt_tokens == 3
    assert sim.bill()["cost_nano"] == 60


OPENAI_ERRORS = [
    ({"status": 400}, "BadRequestError", 400, "invalid_value"),
    ({"status": 400, "code": "context_length_exceeded"}, "ContextWindowExceededError", 400, None),
    ({"status": 400, "code": "content_filter"}, "BadRequestError", 400, "content_filter"),
    (
        {"status": 400, "code": "content_policy_violation"},
        "ContentPolicyViolationError",
        400,
        "content_policy_violation",
    ),
    ({"status": 401}, "AuthenticationError", 401, None),
    ({"status": 403}, "APIError", 403, None),
    ({"status": 404}, "NotFoundError", 404, None),
    ({"status": 408}, "Timeout", 408, None),
    ({"status": 409}, "BadRequestError", 409, None),
    ({"status": 413}, "APIError", 413, None),
    ({"status": 422}, "BadRequestError", 422, None),
    ({"status": 429}, "RateLimitError", 429, "rate_limit_exceeded"),
    ({"status": 429, "code": "insufficient_quota"}, "RateLimitError", 429, "insufficient_quota"),
    ({"status": 500}, "InternalServerError", 500, None),
    ({"status": 502}, "BadGatewayError", 502, None),
    ({"status": 503}, "ServiceUnavailableError", 503, None),
    ({"status": 504}, "Timeout", 504, None),
    ({"status": 529}, "APIError", 529, None),
]
ANTHROPIC_ERRORS = [
    ({"status": 400}, "BadRequestError", 400, None),
    ({"status": 400, "code": "credit_balance"}, "BadRequestError", 400, None),
    ({"status": 400, "code": "context_length_exceeded"}, "ContextWindowExceededError", 400, None),
    ({"status": 400, "code": "content_filter"}, "ContentPolicyViolationError", 400, None),
    ({"status": 401}, "AuthenticationError", 401, None),
    ({"status": 403}, "PermissionDeniedError", 403, None),
    ({"status": 404}, "NotFoundError", 404, None),
    ({"status": 408}, "Timeout", 408, None),
    ({"status": 409}, "BadRequestError", 409, None),
    ({"status": 413}, "BadRequestError", 400, None),
    ({"status": 422}, "BadRequestError", 422, None),
    ({"status": 429}, "RateLimitError", 429, None),
    ({"status": 500}, "InternalServerError", 500, None),
    ({"status": 502}, "BadGatewayError", 502, None),
    ({"status": 503}, "ServiceUnavailableError", 503, None),
    ({"status": 504}, "Timeout", 504, None),
    ({"status": 529}, "InternalServerError", 500, None),
]
CASES = [("openai/gpt-4o", *case) for case in OPENAI_ERRORS]
CASES += [("anthropic/claude-sonnet-4-20250514", *case) for case in ANTHROPIC_ERRORS]


@pytest.mark.parametrize(("model", "rule", "kind", "status", "code"), CASES)
def test_errors_surface_as_they_do_with_the_provider(
    sim: Any, complete: Any, model: str, rule: dict[str, Any], kind: str, status: int, code: str | None
) -> None:
    sim.fault(fault="status", **rule)
    with pytest.raises(Exception) as caught:
        complete(model)
    error: Any = caught.value
    body = getattr(error, "body", None)
    found = body.get("code") if isinstance(body, dict) else None
    assert (type(error).__name__, int(error.status_code), found) == (kind, status, code)
    assert sim.bill()["requests"] == 0
    assert sim.send("GET", "/requests").json["requests"] == 1


def test_retry_after_reaches_the_caller(sim: Any, complete: Any) -> None:
    sim.fault(fault="status", status=429, retry_after=7)
    for model in MODELS:
        with pytest.raises(Exception) as caught:
            complete(model)
        error: Any = caught.value
        assert error.litellm_response_headers["retry-after"] == "7"


BROKEN = [(model, fault, 1) for model in MODELS[::2] for fault in ("hang", "reset", "cut", "malformed")]
# On a reset litellm's Anthropic client sends the request once more, whatever max_retries says, unless the gateway's
# switch has been thrown in this process: tests/worker/test_reservations.py holds that it is one then.
BROKEN.remove((MODELS[2], "reset", 1))


@pytest.mark.parametrize(("model", "fault", "billed"), BROKEN)
def test_broken_answers_raise_and_are_billed(sim: Any, complete: Any, model: str, fault: str, billed: int) -> None:
    sim.fault(fault=fault)
    with pytest.raises(Exception):  # noqa: B017 - the class differs by fault and provider
        complete(model, timeout=1)
    assert sim.bill()["requests"] == billed


def test_refusals_are_no_errors(sim: Any, complete: Any, schema: Any) -> None:
    sim.fault(fault="refusal")
    message = complete("openai/gpt-4o", response_format=described(schema)).choices[0].message
    assert message.content is None
    assert message.provider_specific_fields["refusal"].startswith("I'm sorry")
    choice = complete("anthropic/claude-sonnet-4-20250514", response_format=described(schema)).choices[0]
    assert choice.finish_reason == "content_filter"


@pytest.mark.parametrize(("default", "sent"), [(2, 3), (0, 1)])
def test_embeddings_are_retried_unless_the_default_is_zero(
    sim: Any, litellm: Any, run: Any, monkeypatch: pytest.MonkeyPatch, default: int, sent: int
) -> None:
    # litellm takes max_retries=0 of an embedding for unset.
    monkeypatch.setattr(litellm, "DEFAULT_MAX_RETRIES", default)
    sim.fault(fault="status", status=500)
    with pytest.raises(litellm.InternalServerError):
        run(
            litellm.aembedding(
                model="openai/text-embedding-3-small",
                input=["a"],
                api_base=sim.url + "/v1",
                api_key="sk-test",
                max_retries=0,
            )
        )
    assert sim.send("GET", "/requests").json["requests"] == sent
