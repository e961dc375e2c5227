"""What the providers refuse, in their words; and how tokens are counted."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from simulator import tokens


def error(reply: Any, status: int = 400) -> Any:
    assert reply.status == status, reply.raw
    return reply.json["error"]


def test_a_missing_key_is_refused(sim: Any) -> None:
    sim.key = None
    assert error(sim.chat("hi"), 401)["message"].startswith("You didn't provide an API key")
    assert error(sim.embed("hi"), 401)["type"] == "invalid_request_error"
    assert error(sim.message("hi"), 401)["type"] == "authentication_error"
    assert sim.bill()["requests"] == 0


def test_an_invalid_key_is_refused(sim: Any) -> None:
    sim.key = "sk-invalid"
    assert error(sim.chat("hi"), 401)["code"] == "invalid_api_key"
    assert error(sim.message("hi"), 401) == {"type": "authentication_error", "message": "invalid x-api-key"}
    assert sim.bill()["requests"] == 0


def test_azure_takes_its_own_header(sim: Any) -> None:
    sim.key = None
    sim.extra["api-key"] = "k"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert sim.post("/openai/deployments/gpt4o-2/chat/completions", body).status == 200


def test_an_unknown_model_is_a_404(sim: Any) -> None:
    assert error(sim.chat("hi", model="gpt-9"), 404) == {
        "message": "The model `gpt-9` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
    assert error(sim.message("hi", model="claude-9"), 404) == {
        "type": "not_found_error",
        "message": "model: claude-9",
    }
    # Of the other provider, or of the other kind, is unknown too.
    assert sim.chat("hi", model="claude-sonnet-4-20250514").status == 404
    assert sim.message("hi", model="gpt-4o").status == 404
    assert sim.chat("hi", model="text-embedding-3-small").status == 404
    assert sim.embed("hi", model="gpt-4o").status == 404


def test_context_overflow(sim: Any) -> None:
    # 8 tokens of input in gpt-4's 8,192: 8,184 are left.
    assert sim.chat("hi", model="gpt-4", max_tokens=8_184).status == 200
    found = error(sim.chat("hi", model="gpt-4", max_tokens=8_185))
    assert found["code"] == "context_length_exceeded"
    assert found["message"].startswith(
        "This model's maximum context length is 8192 tokens. However, you requested 8193"
    )
    assert error(sim.chat("a b " * 5_000, model="gpt-4"))["code"] == "context_length_exceeded"
    long = "word " * 180_000
    assert error(sim.message(long))["message"].startswith("prompt is too long: 216")
    assert "> 200000 maximum" in error(sim.message(long))["message"]
    assert sim.message("word " * 165_000).status == 200
    assert "exceed context limit" in error(sim.message("word " * 165_000, max_tokens=3_000))["message"]


def test_max_tokens_is_checked(sim: Any) -> None:
    assert "max_tokens is too large: 16385" in error(sim.chat("hi", max_tokens=16_385))["message"]
    assert error(sim.chat("hi", max_tokens=-1))["param"] == "max_tokens"
    assert error(sim.message("hi", max_tokens=None))["message"] == "max_tokens: Field required"
    found = error(sim.message("hi", model="claude-3-haiku-20240307", max_tokens=4_097))
    assert found["message"].startswith("max_tokens: 4097 > 4096, which is the maximum")


def test_bodies_that_are_no_requests(sim: Any) -> None:
    for route in ("chat", "messages", "embeddings"):
        assert sim.post(route, b"{broken").status == 400
        assert sim.post(route, b"[1]").status == 400
    assert sim.post("chat", {"model": "gpt-4o"}).status == 400
    assert sim.chat("hi", stream=True).status == 400
    assert sim.chat("hi", n=2).status == 400


def test_strict_schemas_are_checked_as_openai_does(sim: Any, schema: Any) -> None:
    open_schema = copy.deepcopy(schema)
    del open_schema["$defs"]["Duty"]["additionalProperties"]
    found = error(sim.chat(schema=open_schema))
    assert found["message"] == (
        "Invalid schema for response_format 'posting': In context=('$defs', 'Duty'), 'additionalProperties' is "
        "required to be supplied and to be false."
    )
    optional = copy.deepcopy(schema)
    optional["required"].remove("years")
    assert "Missing 'years'" in error(sim.chat(schema=optional))["message"]
    assert 'type: "object"' in error(sim.chat(schema={"type": "string"}))["message"]
    loose = {"type": "json_schema", "json_schema": {"name": "p", "schema": optional}}
    assert sim.chat(response_format=loose).status == 200


def test_old_models_refuse_formats(sim: Any, schema: Any) -> None:
    assert "'json_schema' is not supported" in error(sim.chat(schema=schema, model="gpt-3.5-turbo"))["message"]
    found = error(sim.chat("json", model="gpt-4", response_format={"type": "json_object"}))
    assert "'json_object' is not supported" in found["message"]
    found = error(sim.chat("hi", response_format={"type": "json_object"}))
    assert "must contain the word 'json'" in found["message"]


def test_embedding_limits(sim: Any) -> None:
    assert error(sim.embed([]))["message"].startswith("'$.input' is invalid")
    assert error(sim.embed(""))["message"].startswith("'$.input' is invalid")
    assert error(sim.embed(["a", ""]))["message"].startswith("'$.input' is invalid")
    assert sim.embed(["a"] * 2048, dimensions=2).status == 200
    assert error(sim.embed(["a"] * 2049))["code"] == "array_above_max_length"
    assert sim.embed("word " * 8_000).status == 200
    assert "8192 tokens, however you requested" in error(sim.embed("word " * 9_000))["message"]
    found = error(sim.embed(["word " * 8_000] * 38))
    assert (found["type"], found["code"]) == ("max_tokens_per_request", "max_tokens_per_request")
    assert error(sim.embed("a", dimensions=1537))["param"] == "dimensions"


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_counting_in_pieces_is_exact(encoding: str) -> None:
    import tiktoken

    whole = tiktoken.get_encoding(encoding) if tokens.count(encoding, "x") else None
    assert whole is not None
    texts = [
        "The quick brown fox, 1234567 times; it's  done.\n\n\tAnd again… " * 400,
        "naïve 東京 café 🚀 don't   stop\n" * 600,
        "one-very-long.word/" * 100 + " " + "mixed CASE words " * 900,
    ]
    for text in texts:
        assert len(text) > tokens.PIECE
        assert tokens.count(encoding, text) == len(whole.encode_ordinary(text))


@pytest.mark.parametrize("run", ["a", " ", "\n", "é", "0", "!"])
def test_a_run_of_one_character_is_counted_in_bounded_time(run: str) -> None:
    start = time.monotonic()
    assert tokens.count("cl100k_base", run * 1_000_000) > 0
    assert time.monotonic() - start < 8


def test_cutting_never_leaves_half_a_character() -> None:
    text = "🚀🛰️東京" * 10
    for number in range(60):
        part = tokens.first_tokens("cl100k_base", text, number)
        assert text.startswith(part)
        assert tokens.count("cl100k_base", part) <= number


def test_schemas_and_tools_are_counted(sim: Any, schema: Any) -> None:
    plain, told = sim.chat("hi").json["usage"], sim.chat("hi", schema=schema).json["usage"]
    described = {"name": "posting", "strict": True, "schema": schema}
    expected = tokens.count("o200k_base", tokens.compact(described))
    assert told["prompt_tokens"] == plain["prompt_tokens"] + expected
    assert expected > 100
    # Claude: the tools' JSON and the 8 tokens of `hi`, times 1.2, rounded up, and 346 for tool use.
    tools = [{"name": "answer", "input_schema": schema}]
    encoded = 8 + tokens.count("cl100k_base", tokens.compact(tools))
    used = sim.message("hi", schema=schema).json["usage"]["input_tokens"]
    assert used == -(-encoded * 12 // 10) + 346
