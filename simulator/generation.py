"""What a model generated for one request, before it is put into a provider's words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from simulator import tokens
from simulator.catalogue import Served

Finish = Literal["stop", "length", "refusal", "content_filter"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer and its true usage in tokens.

    `text` is JSON when JSON was asked for; for embeddings it is the JSON array of the response's data.
    `tool` names the tool whose input the text is, `limit` is the request's own limit on output tokens.
    """

    model: Served
    text: str
    input_tokens: int
    output_tokens: int
    finish: Finish = "stop"
    tool: str | None = None
    limit: int | None = None


class Refused(Exception):
    """The provider refuses the request: `content` (JSON, or HTML as text) under an HTTP status, unbilled."""

    def __init__(self, status: int, content: dict[str, object] | str, retry_after: float | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.content = content
        self.retry_after = retry_after


def written(
    model: Served,
    text: str,
    *,
    input_tokens: int,
    limit: int | None = None,
    tool: str | None = None,
    finish: Finish = "stop",
) -> Generation:
    """The answer `text`, cut at `limit` output tokens as providers do."""
    output_tokens = model.tokens(tokens.count(model.encoding, text))
    if limit is not None and output_tokens > limit:
        text = tokens.first_tokens(model.encoding, text, model.encoded(limit))
        output_tokens, finish = limit, "length"
    return Generation(model, text, input_tokens, output_tokens, finish, tool, limit)


def reworded(generation: Generation, text: str, finish: Finish = "stop") -> Generation:
    """The same request answered with another text, counted anew, under the same limit."""
    tool = None if finish == "refusal" else generation.tool
    made = written(
        generation.model,
        text,
        input_tokens=generation.input_tokens,
        limit=generation.limit,
        tool=tool,
        finish=finish,
    )
    return made if made.finish == "length" else replace(made, finish=finish)


def halved(generation: Generation, finish: Finish) -> Generation:
    """The first half of the answer."""
    return reworded(generation, generation.text[: max(1, len(generation.text) // 2)], finish)
