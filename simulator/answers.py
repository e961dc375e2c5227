"""Answers made from the prompt: JSON that is true to a schema, or plain text. Same request, same answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from simulator.prompts import Source, read

Schema = dict[str, Any]

# Recursive schemas end here: at this depth, and after this many items of arrays in one answer.
MAX_DEPTH = 9
MAX_ITEMS = 250

# What a property's name says about its text; the first match wins.
FORMS = (
    (re.compile(r"e_?mail"), "email"),
    (re.compile(r"(^|_)(url|link|website|linkedin|github|portfolio)"), "url"),
    (re.compile(r"phone|mobile"), "phone"),
    (re.compile(r"(^|_)(date|start|end|since|until|period)"), "date"),
    (re.compile(r"(^|_)year$"), "year"),
    (re.compile(r"summary|description|overview|objective|statement|about|letter|profile"), "paragraph"),
    (re.compile(r"skill|keyword|technolog|tool|language|tag|stack|industr|domain"), "term"),
    (
        re.compile(
            r"bullet|responsib|achieve|highlight|accomplish|requirement|qualification|benefit|dut(y|ies)"
            r"|reason|note|suggestion|recommend|detail|experience|evidence|content|text"
        ),
        "sentence",
    ),
)
FIXED = {
    "email": "alex.morgan@example.com",
    "url": "https://example.com/alex-morgan",
    "uri": "https://example.com/alex-morgan",
    "phone": "+1 555 010 0199",
    "date-time": "2021-03-01T09:00:00Z",
    "time": "09:00:00Z",
    "uuid": "6f1f3c1e-2f5b-4d58-9d6e-0a4f7f0e5b11",
    "year": "2021",
}
WRITTEN = ("date", "paragraph", "sentence", "term")
# Tried in turn where a schema has a `pattern`.
PATTERN_TRIES = (
    "2021-03",
    "2021",
    "Alex",
    "ALEX",
    "alex",
    "a-1",
    "1",
    "EUR",
    "en",
    "+15550100199",
    "#336699",
)
# Items of an array: of objects, of long texts, of short ones.
OBJECTS, SENTENCES, TERMS = (3, 4), (3, 5), (5, 9)


class Writer:
    """Writes one answer. Everything random comes from the prompt and the seed."""

    def __init__(self, source: Source, seed: str, root: Schema) -> None:
        self.source = source
        self.random = random.Random(seed)
        self.root = root
        self.items_left = MAX_ITEMS
        self.next_sentence = self.random.randrange(len(source.sentences))

    # --- texts

    def sentence(self) -> str:
        """The next sentence of the prompt, at most 24 words; when they run out, words in a new order."""
        index = self.next_sentence
        self.next_sentence += 1
        sentences = self.source.sentences
        if index < 2 * len(sentences):
            words = sentences[index % len(sentences)].split()
            return " ".join(words[:24])
        return " ".join(self.some_words(self.random.randint(8, 16))).capitalize()

    def some_words(self, number: int) -> list[str]:
        """Neighbouring words of the prompt, the short ones left out."""
        words = [word for word in self.source.words if len(word) > 3 or word[0].isupper()]
        at = self.random.randrange(len(words))
        return [words[(at + step) % len(words)] for step in range(number)]

    def term(self) -> str:
        """A name or a longer word of the prompt."""
        for _ in range(8):
            word = self.random.choice(self.source.words)
            if len(word) > 4 or word[0].isupper():
                break
        return word

    def text(self, form: str) -> str:
        if form in FIXED:
            return FIXED[form]
        if form == "date" and self.source.months:
            return self.random.choice(self.source.months)
        if form == "date":
            return f"{self.random.randint(2014, 2025)}-{self.random.randint(1, 12):02}-01"
        if form == "paragraph":
            return " ".join(self.sentence().rstrip(".;") + "." for _ in range(self.random.randint(2, 3)))
        if form == "sentence":
            return self.sentence()
        return self.term() if form == "term" else " ".join(self.some_words(self.random.randint(2, 4)))

    # --- the schema

    def resolve(self, schema: object) -> Schema:
        """Follow `$ref` within the document and merge `allOf`; `true` and `{}` allow anything."""
        found: Any = schema if isinstance(schema, dict) else {}
        for _ in range(MAX_DEPTH):
            if "$ref" not in found:
                break
            target: Any = self.root
            for part in str(found["$ref"]).removeprefix("#").strip("/").split("/"):
                target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if part else target
            found = {**target, **{key: value for key, value in found.items() if key != "$ref"}}
        for part in found.get("allOf", ()):
            merged = self.resolve(part)
            properties = {**found.get("properties", {}), **merged.get("properties", {})}
            found = {**merged, **found, **({"properties": properties} if properties else {})}
        return dict(found)

    def value(self, schema: object, name: str = "", depth: int = 0, facts: bool = True) -> Any:
        """A value that the schema allows. `facts`: equally named facts of the prompt come first."""
        schema = self.resolve(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.choice(schema["enum"], name, facts)
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            resolved = [self.resolve(option) for option in options]
            real = [option for option in resolved if option.get("type") != "null"]
            deep = depth >= MAX_DEPTH and len(real) < len(resolved)
            return None if deep or not real else self.value(real[0], name, depth, facts)
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((option for option in kind if option != "null"), "null")
        fact = self.source.facts.get(name.lower()) if facts and name else None
        if fact is not None and fits(fact, kind, schema):
            return fact
        make: dict[str, Callable[[Schema, str, int, bool], Any]] = {
            "object": self.object,
            "array": self.array,
            "string": self.string,
            "number": self.number,
            "integer": self.integer,
        }
        if kind == "boolean":
            return self.random.random() < 0.7
        return make[kind](schema, name, depth, facts) if kind in make else None

    def choice(self, options: list[Any], name: str, facts: bool) -> Any:
        fact = self.source.facts.get(name.lower()) if facts else None
        real = [option for option in options if option is not None]
        if fact in real:
            return fact
        return self.random.choice(real) if real else None

    def object(self, schema: Schema, name: str, depth: int, facts: bool) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        required = schema.get("required", ())
        made = {
            key: self.value(inner, key, depth + 1, facts)
            for key, inner in properties.items()
            if depth < MAX_DEPTH or key in required
        }
        extra = schema.get("additionalProperties")
        if not properties and isinstance(extra, dict) and depth < MAX_DEPTH:
            made = {self.term().lower(): self.value(extra, name, depth + 1, False) for _ in range(3)}
        return made

    def array(self, schema: Schema, name: str, depth: int, facts: bool) -> list[Any]:
        fixed = [self.value(item, name, depth + 1, False) for item in schema.get("prefixItems", ())]
        items = self.resolve(schema.get("items", {}))
        least = max(int(schema.get("minItems", 0)), len(fixed))
        if fixed and not schema.get("items"):
            return fixed
        size = OBJECTS if "properties" in items else TERMS if form_of(name) == "term" else SENTENCES
        wanted = 0 if depth >= MAX_DEPTH or self.items_left <= 0 else self.random.randint(*size)
        most = max(least, min(int(schema.get("maxItems", wanted)), max(least, wanted)))
        made, seen = fixed, set[str]()
        for _ in range(6 * (most + 1)):
            if len(made) >= most:
                break
            self.items_left -= 1
            item = self.value(items, name, depth + 1, False)
            mark = json.dumps(item, sort_keys=True)
            if mark not in seen:
                seen.add(mark)
                made.append(item)
        while len(made) < least:
            made.append(self.value(items, name, depth + 1, False))
        return made

    def string(self, schema: Schema, name: str, depth: int, facts: bool) -> str:
        form = schema.get("format") or form_of(name)
        made = self.text(form if form in FIXED or form in WRITTEN else "phrase")
        pattern = schema.get("pattern")
        if pattern:
            tries = (made, *PATTERN_TRIES, *self.source.words)
            made = next((text for text in tries if re.search(pattern, text)), made)
        while len(made) < int(schema.get("minLength", 0)):
            made += " " + self.sentence()
        return made[: int(schema["maxLength"])] if "maxLength" in schema else made

    def number(self, schema: Schema, name: str, depth: int, facts: bool) -> float:
        low, high = bounds(schema)
        if (low, high) == (0, 1) or (low is None and high is None and re.search("score|confidence|share", name)):
            return round(self.random.uniform(0.75, 0.98), 2)
        low = (high - 10 if high is not None else 1) if low is None else low
        made = round(self.random.uniform(low, low + 10 if high is None else high), 2)
        return max(low, made if high is None else min(made, high))

    def integer(self, schema: Schema, name: str, depth: int, facts: bool) -> int:
        low, high = bounds(schema)
        start = 2015 if form_of(name) == "year" and low is None else 1
        first = int(-(-low // 1)) if low is not None else start if high is None else min(start, int(high))
        last = int(high // 1) if high is not None else first + 9
        step = int(schema.get("multipleOf", 1)) or 1
        made = self.random.randint(first, max(first, last))
        return made - made % step if made - made % step >= first else made


def form_of(name: str) -> str:
    """The form of text that a property's name asks for."""
    return next((form for pattern, form in FORMS if pattern.search(name.lower())), "phrase")


def bounds(schema: Schema) -> tuple[float | None, float | None]:
    """Least and greatest value; an exclusive bound is moved by 1 for integers, by 0.01 for numbers."""
    step = 1 if schema.get("type") == "integer" else 0.01
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    return low, high


def fits(fact: object, kind: str, schema: Schema) -> bool:
    """Whether a fact of the prompt may stand where the schema is."""
    if kind == "string":
        if not isinstance(fact, str) or not fact:
            return False
        sized = int(schema.get("minLength", 0)) <= len(fact) <= int(schema.get("maxLength", len(fact)))
        return sized and "format" not in schema and bool(re.search(schema.get("pattern", ""), fact))
    if kind in ("number", "integer"):
        if isinstance(fact, bool) or not isinstance(fact, int if kind == "integer" else (int, float)):
            return False
        low, high = bounds(schema)
        return (low is None or fact >= low) and (high is None or fact <= high)
    if kind == "boolean":
        return isinstance(fact, bool)
    texts = isinstance(fact, list) and schema.get("items", {}).get("type") == "string"
    return kind == "array" and texts and not schema.keys() & {"minItems", "maxItems"}


def write_json(prompt: str, seed: str, schema: Schema) -> str:
    """Compact JSON true to the schema, made from the user's prompt."""
    made = Writer(read(prompt), f"{seed}\0{prompt}", schema).value(schema)
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def write_text(prompt: str, seed: str) -> str:
    """Plain text of two to five paragraphs, made from the user's prompt."""
    writer = Writer(read(prompt), f"{seed}\0{prompt}", {})
    return "\n\n".join(writer.text("paragraph") for _ in range(writer.random.randint(2, 5)))
