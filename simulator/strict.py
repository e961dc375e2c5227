"""What OpenAI demands of a JSON schema with `"strict": true`; such mistakes would fail in production only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]


def _parts(schema: dict[str, Any], path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The schema and all schemas in it, each with its place."""
    yield path, schema
    named = [((key, name), inner) for key in ("properties", "$defs") for name, inner in schema.get(key, {}).items()]
    listed = [((key, str(at)), inner) for key in ("anyOf",) for at, inner in enumerate(schema.get(key, ()))]
    for place, inner in [*named, *listed, (("items",), schema.get("items"))]:
        if isinstance(inner, dict):
            yield from _parts(inner, path + place)


def complaint(name: str, schema: dict[str, Any]) -> str | None:
    """OpenAI's message about the first mistake, None if there is none."""
    if schema.get("type") != "object":
        kind = schema.get("type")
        return (
            f"Invalid schema for response_format '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got 'type: \"{kind}\"'."
        )
    for path, part in _parts(schema, ()):
        if part.get("type") != "object" and "properties" not in part:
            continue
        where = f"Invalid schema for response_format '{name}': In context={path!r}, "
        if part.get("additionalProperties") is not False:
            return where + "'additionalProperties' is required to be supplied and to be false."
        missing = [key for key in part.get("properties", {}) if key not in part.get("required", ())]
        if missing:
            return (
                where + "'required' is required to be supplied and to be an array including every key in "
                f"properties. Missing '{missing[0]}'."
            )
    return None
