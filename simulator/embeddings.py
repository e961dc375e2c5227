"""OpenAI embeddings: requests checked and answered as their API does."""

from __future__ import annotations

import json
from typing import Any

from simulator import tokens, vectors
from simulator.catalogue import Catalogue, Served
from simulator.generation import Generation, Refused
from simulator.refusals import BAD, Text, bad_request, body, no_model

MAX_INPUTS = 2048
MAX_TEXT_TOKENS = 8192
MAX_REQUEST_TOKENS = 300_000

BAD_INPUT = "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."


def embed(payload: dict[str, Any], catalogue: Catalogue, seed: int) -> Generation:
    """Generate the vectors of all inputs, or refuse them. The vectors do not depend on the seed."""
    model = catalogue.find(payload.get("model"), "openai", "embedding")
    if model is None:
        raise no_model("openai", payload.get("model"))
    texts = _texts(payload)
    input_tokens = _count(model, texts)
    full = model.dimensions or 1536
    dimensions = _dimensions(payload.get("dimensions"), full)
    write = vectors.as_base64 if payload.get("encoding_format") == "base64" else vectors.as_json
    data = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":'
        f"{write(vectors.embed(model.wire_name, text, full, dimensions))}}}"
        for index, text in enumerate(texts)
    )
    return Generation(model, f"[{data}]", input_tokens, 0)


def _texts(payload: dict[str, Any]) -> list[str]:
    given = payload.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise bad_request("openai", BAD_INPUT)
    if len(texts) > MAX_INPUTS:
        raise bad_request(
            "openai",
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, but got an "
            f"array with length {len(texts)} instead.",
            "input",
            "array_above_max_length",
        )
    return texts


def _count(model: Served, texts: list[str]) -> int:
    """Tokens of all texts, each and all within the provider's limits."""
    longest, total = model.context or MAX_TEXT_TOKENS, 0
    for text in texts:
        counted = tokens.count(model.encoding, text)
        total += counted
        if counted > longest:
            raise bad_request(
                "openai",
                f"This model's maximum context length is {longest} tokens, however you requested {counted} tokens "
                f"({counted} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
            )
    if total > MAX_REQUEST_TOKENS:
        message = f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request"
        raise Refused(400, body("openai", Text("max_tokens_per_request", message, None, "max_tokens_per_request")))
    return total


def _dimensions(asked: object, full: int) -> int:
    if asked is None:
        return full
    if isinstance(asked, int) and not isinstance(asked, bool) and 1 <= asked <= full:
        return asked
    message = f"Invalid value for 'dimensions' = {asked}. Must be less than or equal to {full}."
    raise Refused(400, body("openai", Text(BAD, message, "dimensions")))


def embed_body(generation: Generation, usage: tuple[int, int] | None) -> bytes:
    """The response's JSON without the opening brace. `usage`: the tokens to show, None to leave them out."""
    shown = "" if usage is None else f',"usage":{{"prompt_tokens":{usage[0]},"total_tokens":{usage[0]}}}'
    name = json.dumps(generation.model.wire_name)
    return f'"object":"list","data":{generation.text},"model":{name}{shown}}}'.encode()
