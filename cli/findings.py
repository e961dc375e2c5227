"""What a probe of `paymaster doctor` finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit


class Level(StrEnum):
    """How bad it is. The last two are what the exit status tells."""

    OK = "ok"
    NOTE = "note"  # as it is meant, but worth knowing
    WARNING = "warning"  # works, but not as it should, or not for long
    ERROR = "error"  # something does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, and what to do about it where something is to be done. Neither holds a
    secret."""

    level: Level
    subject: str
    sentence: str
    remedy: str = ""


Probe = Callable[[], Iterator[Finding]]


def ok(subject: str, sentence: str) -> Finding:
    return Finding(Level.OK, subject, sentence)


def note(subject: str, sentence: str, remedy: str = "") -> Finding:
    return Finding(Level.NOTE, subject, sentence, remedy)


def warning(subject: str, sentence: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, subject, sentence, remedy)


def error(subject: str, sentence: str, remedy: str) -> Finding:
    return Finding(Level.ERROR, subject, sentence, remedy)


def place(url: str) -> str:
    """Where a URL leads, without who and how."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        where = f"{parts.hostname or ''}{port}" or parts.path
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{where}" if parts.hostname else where


def kind_of(failure: BaseException) -> str:
    """An exception in a word: its text may quote an address with its password."""
    causes: list[str] = []
    seen: BaseException | None = failure
    while seen is not None and len(causes) < 3:
        if type(seen).__name__ not in causes:
            causes.append(type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    return ", ".join(causes)
