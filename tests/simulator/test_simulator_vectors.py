"""Embeddings: unit length, the same for the same text, near for similar texts, and made in few steps."""

from __future__ import annotations

import base64
import json
import math
import sys
from array import array
from types import FrameType
from typing import Any

import pytest

from simulator.vectors import embed


def vectors(reply: Any) -> list[list[float]]:
    assert reply.status == 200, reply.raw
    assert [item["index"] for item in reply.json["data"]] == list(range(len(reply.json["data"])))
    return [item["embedding"] for item in reply.json["data"]]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("model", "asked", "length"),
    [
        ("text-embedding-3-small", None, 1536),
        ("text-embedding-3-large", None, 3072),
        ("text-embedding-3-large", 256, 256),
        ("text-embedding-3-small", 1, 1),
    ],
)
def test_dimensions_and_unit_length(sim: Any, model: str, asked: int | None, length: int) -> None:
    more = {} if asked is None else {"dimensions": asked}
    for vector in vectors(sim.embed(["hello world", "?", "a"], model=model, **more)):
        assert len(vector) == length
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


def test_same_text_same_vector_and_similar_texts_near(sim: Any) -> None:
    first, again, near, far = vectors(
        sim.embed(
            [
                "senior python engineer for payments",
                "senior python engineer for payments",
                "senior python engineer for search",
                "gardener who prunes old trees",
            ]
        )
    )
    assert first == again == vectors(sim.embed("senior python engineer for payments"))[0]
    assert cosine(first, near) > 0.6
    assert abs(cosine(first, far)) < 0.3


def test_base64_is_little_endian_float32_of_the_same_vector(sim: Any) -> None:
    plain = vectors(sim.embed("hello world"))[0]
    packed = base64.b64decode(sim.embed("hello world", encoding_format="base64").json["data"][0]["embedding"])
    assert len(packed) == 4 * 1536
    assert list(array("f", packed)) == pytest.approx(plain, abs=1e-6)


def test_usage_is_the_sum_of_the_texts(sim: Any) -> None:
    assert sim.embed(["hello world", "hello"]).json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_two_thousand_texts_fit_into_one_request(sim: Any) -> None:
    texts = [f"text {number} of a batch about python and payments" for number in range(2000)]
    body = json.dumps({"model": "text-embedding-3-small", "input": texts, "encoding_format": "base64"}).encode()
    assert sim.post("embeddings", body).status == 200


def steps(words: int, dimensions: int) -> int:
    """How many of Python's own operations a text of so many different words takes, whose words are known."""
    text = " ".join(f"word{number}" for number in range(words))
    embed("a-model", text, dimensions, dimensions)
    counted = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        embed("a-model", text, dimensions, dimensions)
    finally:
        sys.settrace(before)
    return counted


def test_a_word_takes_a_few_steps_however_long_the_vector_is() -> None:
    """Which is what makes thousands of texts in one request quick."""
    longer, shorter = (steps(200, dimensions) - steps(1, dimensions) for dimensions in (3072, 256))
    assert 200 < longer == shorter < 200 * 30
