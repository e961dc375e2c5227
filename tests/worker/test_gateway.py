"""What the gateway makes of vectors, deadlines and connections that are not as they should be."""

import base64
import json
from array import array
from typing import Any

import pytest

from db.once import once_per_environment
from selection.registry import Model, load_registry
from tests.worker.conftest import Simulator
from tests.worker.recorder import Recorder
from worker import gateway
from worker.errors import CallFailed
from worker.kind import ChatRequest, EmbedRequest
from worker.loop import run_on_loop

pytestmark = pytest.mark.xdist_group("litellm")
TEXTS = EmbedRequest(["one", "two"])
SCHEMA = {
    "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"], "additionalProperties": False,
}  # fmt: skip
CHAT = ChatRequest("You read.", "A baker.", "Posting", SCHEMA, temperature=0.1, max_tokens=100)


def model(name: str) -> Model:
    return load_registry().models[name]


def failure(model: Model, request: Any, deadline_s: float = 20) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        run_on_loop(gateway.call(model, request, deadline_s))
    return failed.value


@pytest.fixture
def embedder(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("OPENAI_API_BASE", f"{recorder.url}/v1")
    return recorder


def answer_with(recorder: Recorder, *vectors: Any) -> None:
    rows = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    recorder.body = json.dumps(
        {"object": "list", "data": rows[::-1], "model": "text-embedding-3-small", "usage": usage}
    ).encode()


def vector(value: float, dimensions: int = 1536) -> "array[float]":
    return array("f", [value] * dimensions)


@pytest.mark.parametrize("spelled", ["base64", "numbers"])
def test_vectors_are_the_same_however_the_provider_spells_them_and_in_the_order_of_the_texts(
    embedder: Recorder, spelled: str
) -> None:
    sent = [vector(0.25), vector(-2.5)]
    answer_with(embedder, *(base64.b64encode(v).decode() if spelled == "base64" else v.tolist() for v in sent))
    answer = run_on_loop(gateway.call(model("text-embedding-3-small"), TEXTS, 20))
    assert answer.vectors is not None and answer.usage is not None
    assert answer.vectors.data == sent[0].tobytes() + sent[1].tobytes()
    assert answer.usage.input == 7


@pytest.mark.parametrize("vectors", [[vector(1)], [vector(1)] * 3, [vector(1), vector(1, 1535)], [vector(1, 0)] * 2])
def test_another_number_or_size_of_vectors_is_no_answer_but_is_paid(
    embedder: Recorder, vectors: "list[array[float]]"
) -> None:
    answer_with(embedder, *(base64.b64encode(v).decode() for v in vectors))
    failed = failure(model("text-embedding-3-small"), TEXTS)
    assert (failed.code, failed.billed) == ("invalid_answer", True)
    assert failed.usage is not None and failed.usage.input == 7


def test_a_deadline_that_litellm_notices_first_is_a_timeout_too(simulator: Simulator) -> None:
    """Both count from about the same moment."""
    simulator.fault(fault="hang")

    async def without_our_own() -> None:
        try:
            await gateway._embed(model("text-embedding-3-small"), TEXTS, 0.3)
        except Exception as error:
            gateway._raise_own(model("text-embedding-3-small"), error)

    with pytest.raises(CallFailed) as failed:
        run_on_loop(without_our_own())
    assert (failed.value.code, failed.value.billed) == ("timeout", True)


@pytest.mark.parametrize("name", ["gpt-4o", "claude-sonnet-4-20250514"])
def test_litellms_own_connections_send_nothing_twice_either(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LLM_HTTP", "litellm")
    once_per_environment.forget_all()
    simulator.fault(fault="reset")
    failed = failure(model(name), CHAT)
    assert (failed.code, failed.billed, simulator.requests()) == ("broken_answer", True, 1)
