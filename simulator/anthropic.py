"""Anthropic messages: requests checked and answered as their API does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simulator.answers import write_json, write_text
from simulator.catalogue import Catalogue, Served
from simulator.generation import Generation, Refused, written
from simulator.prompts import described_schema, text_of
from simulator.refusals import ANTHROPIC, Text, bad_request, body, no_model
from simulator.tokens import compact, message_tokens

# Tokens of the system prompt that Anthropic adds when tools are given.
TOOL_USE = 346

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "content_filter": "refusal"}


def authenticate(headers: Mapping[str, str]) -> None:
    """Anthropic's `x-api-key`, or a bearer token."""
    key = headers.get("x-api-key") or headers.get("Authorization", "").removeprefix("Bearer").strip()
    if not key:
        raise Refused(401, body("anthropic", Text("authentication_error", "x-api-key header is required")))
    if key == "sk-invalid":
        raise Refused(401, body("anthropic", ANTHROPIC[401]))
    if "anthropic-version" not in headers:
        raise bad_request("anthropic", "anthropic-version: header is required")


def message(payload: dict[str, Any], catalogue: Catalogue, seed: int) -> Generation:
    """Generate the answer to a message, or refuse it."""
    model = catalogue.find(payload.get("model"), "anthropic", "chat")
    if model is None:
        raise no_model("anthropic", payload.get("model"))
    messages = _messages(payload)
    limit = _limit(payload, model)
    system = text_of(payload.get("system"))
    tools = payload.get("tools") or []
    counted = ([("system", system)] if system else []) + messages
    encoded = message_tokens(model.encoding, counted, compact(tools) if tools else "")
    input_tokens = model.tokens(encoded) + (TOOL_USE if tools else 0)
    _check_context(model, input_tokens, limit)
    prompt = "\n".join(text for _, text in messages)
    tool = _forced(payload.get("tool_choice"), tools)
    schema = tool.get("input_schema", {}) if tool else described_schema(system)
    seeded = f"{seed}:{model.id}"
    text = write_text(prompt, seeded) if schema is None else write_json(prompt, seeded, schema)
    name = str(tool["name"]) if tool else None
    return written(model, text, input_tokens=input_tokens, limit=limit, tool=name)


def _messages(payload: dict[str, Any]) -> list[tuple[str, str]]:
    messages = payload.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise bad_request("anthropic", "messages: Field required")
    if not messages:
        raise bad_request("anthropic", "messages: at least one message is required")
    if payload.get("stream"):
        raise bad_request("anthropic", "stream: not played by this simulator")
    return [(str(item.get("role", "user")), text_of(item.get("content"))) for item in messages]


def _limit(payload: dict[str, Any], model: Served) -> int:
    limit = payload.get("max_tokens")
    if limit is None:
        raise bad_request("anthropic", "max_tokens: Field required")
    if not isinstance(limit, int) or limit < 1:
        raise bad_request("anthropic", "max_tokens: Input should be greater than or equal to 1")
    if model.max_output and limit > model.max_output:
        raise bad_request(
            "anthropic",
            f"max_tokens: {limit} > {model.max_output}, which is the maximum allowed number of output tokens for "
            f"{model.wire_name}",
        )
    return limit


def _check_context(model: Served, input_tokens: int, limit: int) -> None:
    if model.context is None or input_tokens + limit <= model.context:
        return
    if input_tokens > model.context:
        raise bad_request("anthropic", f"prompt is too long: {input_tokens} tokens > {model.context} maximum")
    raise bad_request(
        "anthropic",
        f"input length and `max_tokens` exceed context limit: {input_tokens} + {limit} > {model.context}, decrease "
        "input length or `max_tokens` and try again",
    )


def _forced(choice: object, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The tool that the request makes the model use."""
    if not isinstance(choice, dict) or choice.get("type") not in ("tool", "any"):
        return None
    wanted = choice.get("name")
    tool = next((tool for tool in tools if wanted is None or tool.get("name") == wanted), None)
    if tool is None:
        raise bad_request("anthropic", f"tool_choice.tool: Tool '{wanted}' not found in provided tools")
    return tool


def _tool_input(text: str) -> object:
    """The tool's input; of an answer that was cut, the fields that came through whole."""
    while text:
        for end in ("", "}"):
            try:
                return json.loads(text + end)
            except ValueError:
                continue
        text = text.rpartition(",")[0]
    return {}


def message_body(generation: Generation, usage: tuple[int, int] | None) -> dict[str, Any]:
    """The response without its id. `usage`: the tokens to show, None to leave them out."""
    if generation.tool:
        used: dict[str, Any] = {"type": "tool_use", "id": "toolu_simulator", "name": generation.tool}
        content = [used | {"input": _tool_input(generation.text)}]
    else:
        content = [{"type": "text", "text": generation.text}]
    stop = STOP_REASONS[generation.finish]
    response: dict[str, Any] = {
        "type": "message",
        "role": "assistant",
        "model": generation.model.wire_name,
        "content": content,
        "stop_reason": "tool_use" if generation.tool and stop == "end_turn" else stop,
        "stop_sequence": None,
    }
    if usage is not None:
        response["usage"] = {
            "input_tokens": usage[0],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": usage[1],
            "service_tier": "standard",
        }
    return response
