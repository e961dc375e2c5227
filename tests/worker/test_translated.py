"""Our own connections against `litellm.acompletion`: the same request on the wire, the same answer or failure of it."""

import json
import subprocess
import sys
from typing import Any

import pytest

from db.once import once_per_environment
from selection.registry import load_registry
from tests.worker.recorder import ANSWER, Recorder
from worker import gateway
from worker.errors import CallFailed
from worker.kind import Answer, ChatRequest
from worker.loop import run_on_loop

pytestmark = pytest.mark.xdist_group("litellm")

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "Its title."},
        "skills": {"type": "array", "items": {"$ref": "#/$defs/Skill"}},
        "years": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["title", "skills", "years"],
    "additionalProperties": False,
    "$defs": {"Skill": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
                        "additionalProperties": False}},
}  # fmt: skip
REQUEST = ChatRequest("You read.", "A baker: „Brötchen“ 🥐\n\x00", "Posting", SCHEMA, temperature=0.1, max_tokens=1000)
# one of each way to ask for JSON
MODELS = ("gpt-4o", "gpt-4", "gpt-3.5-turbo", "claude-sonnet-4-20250514", "claude-3-haiku-20240307")
# what tells the provider who calls, and how to read the request
TELLING = ("authorization", "x-api-key", "anthropic-version", "anthropic-beta", "content-type", "openai-organization")


def openai(**changes: Any) -> dict[str, Any]:
    usage = {
        "prompt_tokens": 90, "completion_tokens": 20, "total_tokens": 110,
        "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 5},
    }  # fmt: skip
    return {**ANSWER, "usage": usage, **changes}


def choice(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    told = {"role": "assistant", "content": '{"title": "Bäcker"}', **message}
    return {"choices": [{"index": 0, "message": told, "finish_reason": finish}]}


def anthropic(*content: Any, stop: str = "end_turn", **changes: Any) -> dict[str, Any]:
    usage = {
        "input_tokens": 40, "output_tokens": 20, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 20,
    }  # fmt: skip
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": list(content),
        "stop_reason": stop, "usage": usage, **changes,
    }  # fmt: skip


TEXT = {"type": "text", "text": '{"title": "Bäcker"}'}
TOOL = {"type": "tool_use", "id": "t1", "name": "json_tool_call", "input": {"title": "Bäcker", "skills": []}}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
ANSWERS: dict[str, list[Any]] = {
    "gpt-4o": [
        openai(), openai(**choice()), openai(**choice("length")), openai(**choice("content_filter", content=None)),
        openai(**choice(content=None, refusal="I will not.")), openai(**choice(content="")), openai(**choice(None)),
        openai(choices=[]), openai(usage=None), openai(usage={}), openai(usage={"prompt_tokens": 10**12}),
        openai(usage={"prompt_tokens": -1, "completion_tokens": 2, "total_tokens": 1}),
        {key: value for key, value in openai().items() if key != "usage"},
        {}, [], None, "text", {"error": {"message": "no", "code": "server_error"}},
    ],
    "claude-sonnet-4-20250514": [
        anthropic(TEXT), anthropic(TOOL, stop="tool_use"), anthropic(TEXT, TOOL, stop="tool_use"),
        anthropic(THINKING, TEXT), anthropic(TEXT, stop="max_tokens"), anthropic(TOOL, stop="max_tokens"),
        anthropic(stop="refusal"), anthropic(TEXT, stop="refusal"), anthropic(), anthropic(TEXT, usage={}),
        anthropic(TEXT, usage=None), anthropic(TEXT, usage={"input_tokens": 5, "output_tokens": 0}),
        anthropic({**TOOL, "input": {"values": {"title": "x"}}}, stop="tool_use"),
        {}, [], None, "text", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ],
}  # fmt: skip
ERRORS = [
    (400, {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}, {}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}, {}),
    (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, {}),
    (403, {}, {}), (404, {"error": {"code": "model_not_found"}}, {}), (408, {}, {}), (413, {}, {}), (422, {}, {}),
    (429, {"error": {"code": "rate_limit_exceeded"}}, {"Retry-After": "7"}),
    (429, {"error": {"code": "insufficient_quota"}}, {}),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}, {"retry-after": "0.5"}),
    (500, {"error": {"type": "server_error"}}, {}), (502, "<html>bad gateway</html>", {}), (503, {}, {}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, {}),
]  # fmt: skip


UNREADABLE = [b"", b"{", b"\xff\xfe{}", b"not json", b'{"choices": [{"message": {"content": "\xff"}}]}']


@pytest.fixture(autouse=True)
def addresses(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-1")
    monkeypatch.setenv("OPENAI_API_BASE", f"{recorder.url}/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-1")
    monkeypatch.setenv("ANTHROPIC_API_BASE", recorder.url)


def ask(monkeypatch: pytest.MonkeyPatch, model: str, http: str) -> Any:
    """The answer, or what is known of a failure."""
    monkeypatch.setattr(gateway, "_is_translated", lambda _: http == "own")
    try:
        return run_on_loop(gateway.call(load_registry().resolve(model, "chat"), REQUEST, 20))
    except CallFailed as failed:
        fields = ("code", "error_class", "verdict", "billed", "usage", "retry_after_s", "sentence")
        return {name: getattr(failed, name) for name in fields}


def test_it_is_the_way_unless_somebody_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    models = load_registry().models
    assert gateway._is_translated(models["gpt-4o"])
    assert not gateway._is_translated(models["azure-gpt-4o"])
    monkeypatch.setenv("LLM_HTTP", "litellm")
    once_per_environment.forget_all()
    assert not gateway._is_translated(models["gpt-4o"])


@pytest.mark.parametrize("model", MODELS)
def test_the_same_request_goes_out(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, model: str) -> None:
    for http in ("own", "litellm"):
        ask(monkeypatch, model, http)
    (own_url, own_headers, own_body), (url, headers, body) = recorder.seen
    assert own_url == url
    # litellm 1.106 drops the # of references in the tools of Claude, so that they point nowhere
    assert own_body == json.loads(json.dumps(body).replace('"/$defs/', '"#/$defs/'))

    def telling(of: dict[str, str]) -> dict[str, str]:
        return {name.lower(): value for name, value in of.items() if name.lower() in TELLING}

    assert telling(own_headers) == telling(headers)
    assert own_headers["User-Agent"] == "paymaster"


@pytest.mark.parametrize(("model", "number"), [(m, n) for m, answers in ANSWERS.items() for n in range(len(answers))])
def test_an_answer_is_read_alike(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, model: str, number: int) -> None:
    recorder.body = json.dumps(ANSWERS[model][number]).encode()
    own, litellm = (ask(monkeypatch, model, http) for http in ("own", "litellm"))
    assert own == litellm
    if number == 0:
        assert isinstance(own, Answer)
        assert own.usage is not None
    assert len(recorder.seen) == 2


@pytest.mark.parametrize("model", ANSWERS)
@pytest.mark.parametrize("body", UNREADABLE)
def test_what_nobody_can_read_is_paid_for_alike(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, model: str, body: bytes
) -> None:
    recorder.body = body
    own, litellm = (ask(monkeypatch, model, http) for http in ("own", "litellm"))
    assert own == litellm
    assert own["billed"]


@pytest.mark.parametrize("model", ANSWERS)
@pytest.mark.parametrize(("status", "body", "headers"), ERRORS)
def test_an_error_is_read_alike(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, model: str, status: int, body: Any, headers: dict[str, str]
) -> None:
    recorder.status, recorder.headers = status, {"Content-Type": "application/json", **headers}
    recorder.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    own, litellm = (ask(monkeypatch, model, http) for http in ("own", "litellm"))
    assert own == litellm
    assert own["billed"] is False
    assert len(recorder.seen) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_with_the_key(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, status: int) -> None:
    recorder.status, recorder.headers = status, {"Location": f"{recorder.url}/elsewhere"}
    failed = ask(monkeypatch, "gpt-4o", "own")
    assert (failed["code"], failed["billed"]) == (f"http_{status}", False)
    assert len(recorder.seen) == 1


ONE_CALL = """
import asyncio
from selection.registry import load_registry
from worker import gateway
from worker.kind import ChatRequest
request = ChatRequest("You read.", "A baker.", "Posting", {"type": "object"}, temperature=0.1, max_tokens=10)
print(asyncio.run(gateway.call(load_registry().models["gpt-4o"], request, 60)).content)
"""


def test_a_program_whose_loop_has_ended_before_it_waits_for_nobody_at_its_end(recorder: Recorder) -> None:
    told = subprocess.run([sys.executable, "-c", ONE_CALL], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == "{}\n"
    # aiohttp has its say about the session that nobody could close
    assert "atexit" not in told.stderr and "_close" not in told.stderr
