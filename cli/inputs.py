"""What `paymaster submit` reads: text, JSON and JSONL files, folders and standard input, as payload fields."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = (".txt", ".md", ".json", ".jsonl")
# other products' names for our fields
DESCRIPTION = ("job_description", "raw_job_description", "description", "text")
COMPANY = ("company_name", "company")
TITLE = ("role_title", "title")
# of a posting: the field of a job, and how it may be spelled
POSTING_FIELDS = {"job_description": DESCRIPTION, "company_name": COMPANY, "role_title": TITLE}


class InputError(Exception):
    """A file cannot be used; the message names it and says why."""


def records(paths: list[str]) -> Iterator[tuple[str, Any]]:
    """(where it stands, content) of everything in these paths: a string per text file, a value per JSON file, a
    value per line of a JSONL file. `-` is standard input: text, JSON or JSONL."""
    for path in paths:
        if path == "-":
            yield from _parse_unknown("standard input", sys.stdin.read())
        elif Path(path).is_dir():
            files = sorted(f for f in Path(path).rglob("*") if f.suffix in SUFFIXES and f.is_file())
            if not files:
                raise InputError(f"{path}: the folder has no {', '.join(SUFFIXES)} file")
            for file in files:
                yield from _read(file)
        else:
            yield from _read(Path(path))


def _read(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    if file.suffix == ".jsonl":
        yield from _lines(str(file), text)
    elif file.suffix == ".json":
        yield str(file), _json(str(file), text)
    else:
        yield str(file), text


def _lines(where: str, text: str) -> Iterator[tuple[str, Any]]:
    # not splitlines(): JSON may hold U+2028 and its like inside a string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{where}:{number}", _json(f"{where}:{number}", line)


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: is not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: is JSON that is nested too deeply") from None


def _parse_unknown(where: str, text: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip()[:1] not in ("{", "["):
        yield where, text
        return
    try:
        yield where, json.loads(text)
    except ValueError:
        yield from _lines(where, text)


def parse_fields(where: str, content: Any) -> dict[str, Any]:
    """A posting as the fields of a parse job."""
    if isinstance(content, str):
        return {"job_description": content}
    if not isinstance(content, dict):
        raise InputError(f"{where}: a posting is a text or a JSON object, not a {type(content).__name__}")
    found = {name: _first(content, spellings) for name, spellings in POSTING_FIELDS.items()}
    if found["job_description"] is None:
        raise InputError(f"{where}: has none of the fields {', '.join(DESCRIPTION)}")
    return {name: value for name, value in found.items() if value}


def generate_fields(where: str, content: Any, artifacts: list[Any], preferences: dict[str, Any]) -> dict[str, Any]:
    """A posting, and what is known of the applicant, as the fields of a generate job."""
    if isinstance(content, dict) and "job_data" in content:
        return {"artifacts": artifacts, "preferences": preferences, **content}
    posting = parse_fields(where, content)
    rest = content if isinstance(content, dict) and "raw_job_description" in content else {}
    job_data = {**rest, "raw_job_description": posting.pop("job_description"), **posting}
    return {"job_data": job_data, "artifacts": artifacts, "preferences": preferences}


def texts_of(where: str, content: Any) -> list[str]:
    """The texts that a piece of input holds, for an embed job."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [text for item in content for text in texts_of(where, item)]
    if isinstance(content, dict) and isinstance(content.get("texts"), list):
        return texts_of(where, content["texts"])
    return [parse_fields(where, content)["job_description"]]


def read_artifacts(path: Path | None) -> list[Any]:
    """The artifacts of a file, if there is one."""
    if path is None:
        return []
    [(where, content), *_] = [*records([str(path)])]
    return artifacts_of(where, content)


def artifacts_of(where: str, content: Any) -> list[Any]:
    """Artifacts from a list of objects, or from a résumé in the JSON Resume schema: one object per entry of its
    sections."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise InputError(f"{where}: artifacts are a list of objects or a JSON Resume")
    artifacts: list[Any] = []
    for section, entries in content.items():
        if section.startswith("$") or section == "meta":
            continue
        artifacts += [
            {"section": section, **entry} if isinstance(entry, dict) else {section: entry}
            for entry in (entries if isinstance(entries, list) else [entries])
        ]
    return artifacts


def _first(content: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if content.get(name)), None)


def one_of(what: str, given: str | None, known: list[str]) -> None:
    """Refuse what is not among the known words; None passes."""
    if given is not None and given not in known:
        raise InputError(f"{given!r} is no {what}; give {', '.join(known[:-1])} or {known[-1]}")
