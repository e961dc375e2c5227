"""Answers are true to the schema, come from the prompt, and are the same for the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import validate  # type: ignore[import-untyped]  # comes with litellm, without types

from simulator.answers import write_json, write_text


def content(reply: Any) -> Any:
    assert reply.status == 200, reply.raw
    return json.loads(reply.json["choices"][0]["message"]["content"])


def test_openai_answers_true_to_the_schema(sim: Any, schema: Any) -> None:
    answer = content(sim.chat(schema=schema))
    validate(answer, schema)
    assert answer["company_name"] == "Acme GmbH"
    assert 0.75 <= answer["confidence_score"] <= 0.98
    assert len({json.dumps(duty) for duty in answer["duties"]}) == len(answer["duties"]) >= 2
    assert len(set(answer["skills"])) == len(answer["skills"]) >= 3


def test_strings_come_from_the_prompt(sim: Any, schema: Any, posting: str) -> None:
    answer = content(sim.chat(schema=schema))
    assert all(skill in posting for skill in answer["skills"])
    assert answer["summary"].split(".")[0] in posting


def test_anthropic_answers_by_the_forced_tool(sim: Any, schema: Any) -> None:
    message = sim.message(schema=schema).json
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "tool_use")
    (block,) = message["content"]
    assert (block["type"], block["name"]) == ("tool_use", "answer")
    validate(block["input"], schema)


def test_facts_in_json_are_preferred(sim: Any, schema: Any) -> None:
    data = json.dumps({"job": {"company_name": "Initech", "level": "staff", "years": 9}, "text": "Ship it. " * 20})
    answer = content(sim.chat(f"Use this: {data}", schema=schema))
    assert (answer["company_name"], answer["level"], answer["years"]) == ("Initech", "staff", 9)


def test_facts_that_the_schema_forbids_are_not_used(sim: Any, schema: Any) -> None:
    answer = content(sim.chat(json.dumps({"years": 99, "level": "chief", "company_name": 7}), schema=schema))
    validate(answer, schema)


def test_the_same_request_has_the_same_answer_and_another_another(sim: Any, schema: Any) -> None:
    first, again = content(sim.chat(schema=schema)), content(sim.chat(schema=schema, seed=1))
    other = content(sim.chat("We need a gardener in Kyoto. You will prune old trees every spring.", schema=schema))
    assert first == again
    assert first != other


def test_the_seed_changes_the_answer(schema: Any, posting: str) -> None:
    assert write_json(posting, "1", schema) == write_json(posting, "1", schema)
    assert write_json(posting, "1", schema) != write_json(posting, "2", schema)


def test_lengths_are_those_of_real_answers(sim: Any, schema: Any, posting: str) -> None:
    usages = [sim.chat(f"{posting} No {number}.", schema=schema).json["usage"] for number in range(8)]
    lengths = [usage["completion_tokens"] for usage in usages]
    assert all(150 <= length <= 600 for length in lengths)
    assert len(set(lengths)) > 4


def test_without_a_schema_the_answer_is_text(sim: Any, posting: str) -> None:
    text = sim.chat().json["choices"][0]["message"]["content"]
    assert not text.startswith("{")
    assert text.split(".")[0] in posting
    block = sim.message().json["content"][0]
    assert (block["type"], sim.message().json["stop_reason"]) == ("text", "end_turn")
    assert write_text(posting, "1") != write_text(posting, "2")


@pytest.mark.parametrize("fence", ["Answer by this JSON schema: {}", "Schema (JSON):\n```json\n{}\n```"])
def test_json_object_follows_the_schema_in_the_system_prompt(sim: Any, schema: Any, posting: str, fence: str) -> None:
    system = {"role": "system", "content": fence.replace("{}", json.dumps(schema, indent=1))}
    messages = [system, {"role": "user", "content": posting}]
    body = {"model": "gpt-3.5-turbo", "messages": messages, "response_format": {"type": "json_object"}}
    validate(content(sim.post("chat", body)), schema)
    # gpt-4 has no response_format, and litellm drops json_object for Claude: there the prompt alone asks for JSON.
    validate(content(sim.post("chat", {"model": "gpt-4", "messages": messages})), schema)
    message = sim.message(system=system["content"]).json
    validate(json.loads(message["content"][0]["text"]), schema)


def test_json_object_follows_an_example(sim: Any) -> None:
    system = 'Answer as JSON: {"title": "…", "score": 0.5, "tags": ["a"], "size": 3}'
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "hi"}]
    answer = content(
        sim.post("chat", {"model": "gpt-4o", "messages": messages, "response_format": {"type": "json_object"}})
    )
    assert {key: type(value) for key, value in answer.items()} == {
        "title": str,
        "score": float,
        "tags": list,
        "size": int,
    }


SCHEMAS: list[dict[str, Any]] = [
    {"type": "string", "minLength": 300},
    {"type": "string", "maxLength": 3},
    {"type": "string", "pattern": r"^\d{4}-\d{2}$"},
    {"type": "string", "enum": ["a", "b"]},
    {"const": 5},
    {"type": "integer", "minimum": 3, "maximum": 3},
    {"type": "integer", "maximum": -5},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
    {"type": "number", "minimum": 10.5, "maximum": 10.75},
    {"type": "number", "maximum": 0.2, "minimum": 0.1},
    {"type": "array", "items": {"type": "string"}, "minItems": 25, "uniqueItems": True},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 4},
    {"type": "array", "items": {"type": "string"}, "maxItems": 1},
    {"type": ["null", "integer"]},
    {"type": "null"},
    {
        "oneOf": [
            {"type": "null"},
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        ]
    },
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}], "required": ["a"]},
    {"type": "object", "additionalProperties": {"type": "number"}},
    {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
                "required": ["children"],
            }
        },
    },
    {
        "$ref": "#/$defs/N",
        "$defs": {"N": {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}}},
    },
]


@pytest.mark.parametrize("part", SCHEMAS, ids=lambda part: json.dumps(part)[:50])
@pytest.mark.parametrize("prompt", ["", "hi", "x" * 5000, "{" * 200, '{"a": 1, "value": "v"} and more'])
def test_every_schema_gets_a_true_answer(part: dict[str, Any], prompt: str) -> None:
    for seed in "123":
        validate(json.loads(write_json(prompt, seed, part)), part)


def test_an_answer_is_cut_at_max_tokens_with_the_usage_of_the_cut(sim: Any, schema: Any) -> None:
    whole = sim.chat(schema=schema).json
    cut = sim.chat(schema=schema, max_tokens=20).json
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 20
    text = cut["choices"][0]["message"]["content"]
    assert whole["choices"][0]["message"]["content"].startswith(text)
    assert sim.chat(schema=schema, max_completion_tokens=20).json["usage"]["completion_tokens"] == 20
    message = sim.message(schema=schema, max_tokens=50).json
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 50)
    assert message["content"][0]["input"].keys() < schema["properties"].keys()


def test_bodies_have_the_providers_fields(sim: Any) -> None:
    usage = sim.chat("hi").json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    usage = sim.message("hi").json["usage"]
    assert (usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (0, 0)


def test_azure_deployments_name_the_model_in_the_path(sim: Any) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    reply = sim.post("/openai/deployments/gpt4o-2/chat/completions?api-version=2024-10-21", body)
    assert (reply.status, reply.json["usage"]["completion_tokens"]) == (200, 5)
    assert sim.bill()["models"]["azure-gpt-4o"]["cost_nano"] == 8 * 2_500 + 5 * 10_000
    sim.post("/openai/deployments/nobody/chat/completions", body)
    assert sim.bill()["requests"] == 1
