"""OpenAI chat completions, on Azure's deployments too: requests checked and answered as their API does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator import strict
from simulator.answers import write_json, write_text
from simulator.catalogue import Catalogue, Served
from simulator.generation import Generation, Refused, written
from simulator.prompts import described_schema, example_schema, text_of
from simulator.refusals import BAD, OPENAI, Text, bad_request, body, no_model
from simulator.tokens import compact, message_tokens

# Response formats that older models refuse.
WITHOUT_SCHEMA = {"gpt-3.5-turbo", "gpt-4", "gpt-4-turbo"}
WITHOUT_JSON_OBJECT = {"gpt-4"}

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    "API from your browser and are prompted for a username and password. You can obtain an API key from "
    "https://platform.openai.com/account/api-keys."
)
OBJECT_WITHOUT_SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


def authenticate(headers: Mapping[str, str]) -> None:
    """OpenAI's bearer key, or Azure's `api-key` header."""
    key = headers.get("api-key") or headers.get("Authorization", "").removeprefix("Bearer").strip()
    if not key:
        raise Refused(401, body("openai", Text(BAD, NO_KEY)))
    if key == "sk-invalid":
        raise Refused(401, body("openai", OPENAI[401]))


def chat(payload: dict[str, Any], catalogue: Catalogue, seed: int) -> Generation:
    """Generate the answer to a chat completion, or refuse it."""
    model = catalogue.find(payload.get("model"), "openai", "chat")
    if model is None:
        raise no_model("openai", payload.get("model"))
    messages = _messages(payload)
    answer_format = payload.get("response_format") or {"type": "text"}
    _check_format(model, answer_format, messages)
    limit = _limit(payload, model)
    schema_text = compact(answer_format["json_schema"]) if answer_format["type"] == "json_schema" else ""
    schema_text += compact(payload["tools"]) if payload.get("tools") else ""
    input_tokens = model.tokens(message_tokens(model.encoding, messages, schema_text))
    limit = _within_context(model, input_tokens, limit)
    system = "\n".join(text for role, text in messages if role in ("system", "developer"))
    prompt = "\n".join(text for role, text in messages if role not in ("system", "developer"))
    schema = _schema(answer_format, system, prompt)
    seeded = f"{seed}:{model.id}"
    text = write_text(prompt, seeded) if schema is None else write_json(prompt, seeded, schema)
    return written(model, text, input_tokens=input_tokens, limit=limit)


def _messages(payload: dict[str, Any]) -> list[tuple[str, str]]:
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        missing = "Missing required parameter: 'messages'."
        raise bad_request("openai", missing, "messages", "missing_required_parameter")
    for unplayed, played in (("stream", False), ("n", 1)):
        if (payload.get(unplayed) or played) is not played:
            message = f"Unsupported value: '{unplayed}' is not played by this simulator."
            raise bad_request("openai", message, unplayed, "unsupported_value")
    return [(str(item.get("role", "user")), text_of(item.get("content"))) for item in messages]


def _check_format(model: Served, answer_format: dict[str, Any], messages: list[tuple[str, str]]) -> None:
    kind = answer_format.get("type")
    refusing = {"json_schema": WITHOUT_SCHEMA, "json_object": WITHOUT_JSON_OBJECT}.get(str(kind), set())
    if model.wire_name in refusing:
        raise bad_request(
            "openai",
            f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model.",
        )
    if kind == "json_object" and not any("json" in text.lower() for _, text in messages):
        raise bad_request(
            "openai",
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            "messages",
        )
    if kind != "json_schema":
        return
    described = answer_format.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise bad_request(
            "openai",
            "Missing required parameter: 'response_format.json_schema'.",
            "response_format.json_schema",
            "missing_required_parameter",
        )
    wrong = strict.complaint(str(described.get("name")), described["schema"]) if described.get("strict") else None
    if wrong:
        raise bad_request("openai", wrong, "response_format")


def _limit(payload: dict[str, Any], model: Served) -> int | None:
    """The limit on output tokens that the request asks for."""
    asked = payload.get("max_completion_tokens") or payload.get("max_tokens")
    if asked is None:
        return None
    if not isinstance(asked, int) or asked < 1:
        raise bad_request(
            "openai",
            f"Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got {asked} instead.",
            "max_tokens",
            "integer_below_min_value",
        )
    if model.max_output and asked > model.max_output:
        raise bad_request(
            "openai",
            f"max_tokens is too large: {asked}. This model supports at most {model.max_output} completion tokens, "
            f"whereas you provided {asked}.",
            "max_tokens",
        )
    return asked


def _within_context(model: Served, input_tokens: int, limit: int | None) -> int | None:
    """The limit on output tokens; where none was asked for, the room that is left, up to the model's."""
    if model.context is None:
        return limit or model.max_output
    room = model.context - input_tokens
    if room >= (limit or 1):
        return limit or min(room, model.max_output or room)
    raise bad_request(
        "openai",
        f"This model's maximum context length is {model.context} tokens. However, you requested "
        f"{input_tokens + (limit or 0)} tokens ({input_tokens} in the messages, {limit or 0} in the completion). "
        "Please reduce the length of the messages or completion.",
        "messages",
        "context_length_exceeded",
    )


def _schema(answer_format: dict[str, Any], system: str, prompt: str) -> dict[str, Any] | None:
    if answer_format["type"] == "json_schema":
        schema: dict[str, Any] = answer_format["json_schema"]["schema"]
        return schema
    if answer_format["type"] == "json_object":
        return described_schema(system, prompt) or example_schema(system) or OBJECT_WITHOUT_SCHEMA
    return described_schema(system)


def chat_body(generation: Generation, usage: tuple[int, int] | None) -> dict[str, Any]:
    """The response without its id and time. `usage`: the tokens to show, None to leave them out."""
    refusal = generation.text if generation.finish == "refusal" else None
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refusal else generation.text,
        "refusal": refusal,
        "annotations": [],
    }
    finish = "stop" if generation.finish == "refusal" else generation.finish
    response: dict[str, Any] = {
        "object": "chat.completion",
        "model": generation.model.wire_name,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
    }
    if usage is not None:
        response["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
    return response | {"service_tier": "default", "system_fingerprint": "fp_simulator"}
