"""What comes from outside, made up by Hypothesis: payloads of submitters, and answers of providers down to the bytes of
their HTTP. Whatever it is, it is taken, or refused with the error that is meant for it.

`make test` tries a few hundred of each; `make fuzz` goes on for ten minutes, with another seed each round."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from selection.registry import load_registry
from tasks.answers import CVContent, ParsedPosting, read_answer
from tasks.kinds import Embed, Generate, Parse
from tasks.quality import cv_quality
from worker.errors import CallFailed, InvalidJob
from worker.gateway import ABSURD_TOKENS, call
from worker.kind import Answer, AnswerInvalid, ChatRequest, EmbedRequest, JobKind
from worker.loop import run_on_loop

# litellm's import, and one event loop
pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(900)]

MANY = int(os.environ.get("FUZZ_EXAMPLES", "200"))
many = settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck), database=None)
few = settings(many, max_examples=max(20, MANY // 4))

TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["", " ", "\0", "\ud800", "null", "1e999", "\u202e", "```json\n{}\n```", "{" * 200, "[" * 3000, "🦆" * 50]
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=15
)
# what no JSON holds, but a caller of Python may give
ANYTHING = JSON | st.binary(max_size=20) | st.complex_numbers() | st.sets(st.integers(), max_size=3) | st.just(object())


def fields_of(kind: JobKind, good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a job of which some are good, some are not, and some are unknown."""
    names = [*kind.payload(good).model_dump(), "unknown", ""]
    return st.dictionaries(st.sampled_from(names) | TEXT, ANYTHING, max_size=5).flatmap(
        lambda odd: st.sampled_from([odd, {**good, **odd}, {**odd, **good}])
    )


KINDS: list[tuple[JobKind, dict[str, Any]]] = [
    (Parse(), {"job_description": "A baker."}),
    (Generate(), {"job_data": {"raw_job_description": "A baker."}, "artifacts": [{"a": 1}]}),
    (Embed(), {"texts": ["bread", "rolls"]}),
]


@pytest.mark.parametrize(("kind", "good"), KINDS, ids=[kind.name for kind, _ in KINDS])
def test_any_fields_are_a_job_or_refused_by_a_sentence(kind: JobKind, good: dict[str, Any]) -> None:
    model = load_registry().models["text-embedding-3-small" if kind.name == "embed" else "gpt-4o"]

    @many
    @given(fields_of(kind, good))
    def submit(fields: dict[str, Any]) -> None:
        try:
            payload = kind.payload(fields)
        except InvalidJob as refused:
            _is_a_sentence(refused)
            return
        # what is taken can be stored, chosen for and sent
        stored = json.dumps(payload.model_dump(mode="json"), allow_nan=False).encode()
        assert kind.payload(json.loads(stored)) == payload
        assert kind.facts(payload).kind == kind.name
        kind.check_size(payload, model)
        for request in kind.requests(payload, model):
            json.dumps(request.texts).encode()

    submit()


def an_answer(model: type[BaseModel]) -> st.SearchStrategy[str | bytes]:
    """Text that a provider might send: nonsense, JSON, and objects that are nearly or really right, whole or cut."""
    real = st.from_type(model).map(lambda made: made.model_dump(mode="json"))
    odd = st.tuples(real, st.dictionaries(st.sampled_from([*model.model_fields]) | TEXT, JSON, max_size=3)).map(
        lambda both: {**both[0], **both[1]}
    )
    text = (real | odd | JSON).map(json.dumps)
    cut = st.tuples(text, st.integers(0, 400)).map(lambda both: both[0][: both[1]])
    dressed = text.map(lambda told: f"Here it is:\n```json\n{told},\n```")
    return text | cut | dressed | TEXT | st.text(alphabet='{}[]",:\\u0d8 tfn1e-.', max_size=80)


@pytest.mark.parametrize("model", [ParsedPosting, CVContent])
def test_any_text_is_an_answer_or_refused_without_its_words(model: type[BaseModel]) -> None:
    @many
    @given(an_answer(model), JSON, st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=3))
    def read(text: str, posting: Any, artifacts: list[Any]) -> None:
        try:
            found = read_answer(model, text)
        except AnswerInvalid as refused:
            _is_a_sentence(refused)
            return
        json.dumps(found, allow_nan=False)
        if model is CVContent:
            assert 0 <= cv_quality(found, {"required_skills": posting}, artifacts) <= 1

    read()


class Provider(BaseHTTPRequestHandler):
    """Answers everything with what the test put here."""

    status: ClassVar[int] = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    body: ClassVar[bytes] = b""
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        for name, value in {"Content-Type": "application/json", **self.headers_sent}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with suppress(ConnectionError):  # nobody reads the body of a 204 or a redirect
            self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the answers are nonsense by the thousand."""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


COUNT = st.integers(-2, 5000) | st.just(10**30) | LEAF
USAGE = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens",
                     "cache_creation_input_tokens", "cache_read_input_tokens"]), COUNT, max_size=7,
) | JSON  # fmt: skip
CHAT = st.fixed_dictionaries({
    "id": LEAF, "object": st.just("chat.completion"), "created": COUNT, "model": TEXT, "usage": USAGE,
    "choices": st.lists(st.fixed_dictionaries({
        "index": st.just(0), "finish_reason": st.sampled_from(["stop", "length", "content_filter", "", None, 3]),
        "message": st.fixed_dictionaries({"role": st.just("assistant"), "content": JSON}) | JSON,
    }), max_size=2),
})  # fmt: skip
MESSAGES = st.fixed_dictionaries({
    "id": LEAF, "type": st.just("message"), "role": st.just("assistant"), "model": TEXT, "usage": USAGE,
    "stop_reason": st.sampled_from(["end_turn", "tool_use", "max_tokens", "refusal", None]),
    "content": st.lists(
        st.fixed_dictionaries({"type": st.just("text"), "text": JSON})
        | st.fixed_dictionaries(
            {"type": st.just("tool_use"), "id": TEXT, "name": st.just("json_tool_call"), "input": JSON}
        ) | JSON, max_size=2,
    ),
})  # fmt: skip
VECTORS = st.fixed_dictionaries({
    "object": st.just("list"), "model": TEXT, "usage": USAGE,
    "data": st.lists(st.fixed_dictionaries({
        "object": st.just("embedding"), "index": st.integers(-1, 3) | LEAF,
        "embedding": st.lists(st.floats(width=32) | LEAF, max_size=5) | TEXT | st.just("AAAA" * 2048),
    }), max_size=3),
}) | JSON  # fmt: skip
ERROR = st.fixed_dictionaries({"error": st.fixed_dictionaries({"message": JSON, "code": JSON, "type": JSON}) | JSON})
CALLS = {"gpt-4o": CHAT, "claude-sonnet-4-20250514": MESSAGES, "text-embedding-3-small": VECTORS}


@pytest.mark.parametrize("name", CALLS)
def test_any_http_answer_is_an_answer_or_a_failed_call(
    name: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_registry().models[name]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fuzz")
    monkeypatch.setenv("OPENAI_API_BASE", f"{provider}/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-fuzz")
    monkeypatch.setenv("ANTHROPIC_API_BASE", provider)
    chat = ChatRequest("Answer.", "Bread.", "Answer", {"type": "object", "properties": {}}, 0.1, 100)
    request = EmbedRequest(["bread"]) if model.kind == "embedding" else chat
    body = (CALLS[name] | JSON | ERROR).map(lambda told: json.dumps(told).encode()) | st.binary(max_size=60)

    @few
    @given(
        st.sampled_from([200, 200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 529, 599]), body,
        st.sampled_from([{}, *({"Retry-After": told} for told in ("nan", "inf", "9" * 400, "-1", "x" * 99)),
                         {"Content-Type": "text/html; charset=utf-7"}, {"Content-Encoding": "gzip"}]),
    )  # fmt: skip
    def ask(status: int, told: bytes, headers: dict[str, str]) -> None:
        Provider.status, Provider.body, Provider.headers_sent = status, told, headers
        try:
            answer = run_on_loop(call(model, request, 20))
        except CallFailed as failed:
            _is_a_sentence(failed)
            _can_be_waited_for(failed.retry_after_s)
            return
        _check(answer)

    ask()


def _is_a_sentence(error: Exception) -> None:
    assert str(error).isprintable() and len(str(error)) < 500, str(error)


def _can_be_waited_for(seconds: float | None) -> None:
    assert seconds is None or 0 <= seconds <= 86_400, seconds


def _check(answer: Answer) -> None:
    if answer.usage is not None:
        parts = (answer.usage.input, answer.usage.output, answer.usage.cached, answer.usage.cache_write)
        assert all(0 <= part < ABSURD_TOKENS for part in parts)
    if answer.vectors is not None:
        assert len(answer.vectors.data) == 4 * answer.vectors.count * answer.vectors.dimensions
    else:
        assert answer.content.strip()
