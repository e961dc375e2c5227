"""What can be read from a prompt: words, sentences, facts, and a JSON schema described in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# JSON objects tried in one prompt, and facts taken from it: bounds on work, far above any real prompt.
MAX_OBJECTS = 40
MAX_FACTS = 300
# Longer values are prose, not facts (characters).
MAX_FACT = 300

# `Company name: Acme` and `<company_name>Acme</company_name>`
_LABELLED = re.compile(r"^[ \t*#-]*([A-Za-z][A-Za-z _-]{1,30}?)[*]*[ \t]*[:=][ \t]*(\S.{0,160})$", re.MULTILINE)
_TAGGED = re.compile(r"<([A-Za-z_]{2,40})>\s*([^<>\n]{1,200}?)\s*</\1>")
_MONTH = re.compile(r"\b(?:19|20)\d\d(?:-(?:0[1-9]|1[0-2]))?\b")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_WORD = re.compile(r"[^\W\d_][\w+#./-]*[\w+#]|[^\W\d_]")
_DECODER = json.JSONDecoder()

# For prompts too short to answer from.
SPARE_SENTENCES = (
    "Works closely with product and design to ship useful software",
    "Keeps services reliable, observable and cheap to run",
    "Explains trade-offs clearly and writes them down",
    "Improves the delivery process with small, measured steps",
    "Mentors colleagues and reviews their work with care",
)


@dataclass(frozen=True, slots=True)
class Source:
    """The material of an answer."""

    sentences: list[str]
    words: list[str]
    facts: dict[str, Any]
    months: list[str]


def text_of(content: object) -> str:
    """A message's text, from a string or from a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects written in a text, outermost only."""
    at = text.find("{")
    for _ in range(MAX_OBJECTS):
        if at < 0:
            return
        try:
            found, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(found, dict):
            yield found
        at = text.find("{", end)


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Named values of nested JSON: scalars, and lists of texts as a whole."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))
    elif isinstance(value, list) and not all(isinstance(item, str) for item in value):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield name, value


def _key(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.strip().lower())


def _is_fact(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and not any(isinstance(text, str) and len(text) > MAX_FACT for text in texts)


def read(prompt: str) -> Source:
    """Take the prompt apart. JSON is read as its values, never as punctuation. Where it brings artifacts of a person,
    the answer is made of these: nothing is invented."""
    found_objects = list(objects(prompt))
    leaves = [leaf for found in found_objects for leaf in _leaves(found)][: 10 * MAX_FACTS]
    given = [leaf for found in found_objects for leaf in _leaves(found.get("artifacts"))][: 10 * MAX_FACTS]
    prose = "\n".join(_texts(value for _, value in given or leaves)) if leaves else re.sub(r"</?\w+>", "\n", prompt)
    facts: dict[str, Any] = {}
    named = leaves + [pair for found in (_TAGGED, _LABELLED) for pair in found.findall(prompt)]
    for name, value in named[: 10 * MAX_FACTS]:
        if len(facts) < MAX_FACTS and name and _is_fact(value):
            facts.setdefault(_key(name), value.strip() if isinstance(value, str) else value)
    pieces = (re.sub(r"\s+", " ", piece).strip(" -*•#\t") for piece in _SENTENCE_END.split(prose[:100_000]))
    sentences = list(dict.fromkeys(piece for piece in pieces if piece.count(" ") >= 3))
    if len(sentences) < len(SPARE_SENTENCES):
        sentences.extend(SPARE_SENTENCES)
    words = list(dict.fromkeys(_WORD.findall(prose[:100_000])))
    if len(words) < 40:
        words.extend(_WORD.findall(" ".join(SPARE_SENTENCES)))
    return Source(sentences, words, facts, _MONTH.findall(prose[:100_000]))


def _texts(values: Iterator[object]) -> Iterator[str]:
    for value in values:
        yield from (str(item) for item in (value if isinstance(value, list) else [value]))


def described_schema(*prompts: str) -> dict[str, Any] | None:
    """The JSON schema, or the example of an answer, that the first such prompt holds."""
    found = [candidate for prompt in prompts for candidate in objects(prompt)]
    for candidate in found:
        schema = candidate.get("schema", candidate)
        if isinstance(schema, dict) and (isinstance(schema.get("properties"), dict) or "$ref" in schema):
            return schema
    return None


def example_schema(prompt: str) -> dict[str, Any] | None:
    """The schema of the first example object in a system prompt: `{"title": "...", "score": 0.5}`."""
    return next((_schema_of(found) for found in objects(prompt) if found), None)


def _schema_of(example: object) -> dict[str, Any]:
    if isinstance(example, dict):
        return {"type": "object", "properties": {key: _schema_of(value) for key, value in example.items()}}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {"type": "string"}}
    if isinstance(example, bool):
        return {"type": "boolean"}
    if isinstance(example, float):
        return {"type": "number", "minimum": 0, "maximum": 1} if 0 <= example <= 1 else {"type": "number"}
    return {"type": "integer"} if isinstance(example, int) else {"type": "string"}
