"""How good a generated CV is, 0-1, by rules: the same CV and posting always score the same."""

import re
from collections.abc import Iterable
from typing import Any

SECTIONS = ("headline", "summary", "skills", "experience", "education", "achievements", "cover_note")
# C++, C#, .NET and Node.js are words, the full stop at the end of a sentence is not part of one
_WORD = re.compile(r"\.?\w[\w+#]*(?:[.-]\w[\w+#]*)*")
# of a skill of several words, those that say something
_LONG = 3


def cv_quality(content: dict[str, Any], job_data: dict[str, Any]) -> float:
    """The mean of two shares: sections that are filled, and skills of the posting that the CV names. A posting
    without a list of skills (one that was not parsed) is scored by its sections alone."""
    filled = sum(bool(content[section]) for section in SECTIONS) / len(SECTIONS)
    given = job_data.get("required_skills")
    skills = [_words(skill) for skill in given if isinstance(skill, str)] if isinstance(given, list) else []
    skills = [skill for skill in skills if skill]
    if not skills:
        return round(filled, 4)
    words = {word for text in _texts(content) for word in _words(text)}
    named = sum(_named(skill, words) for skill in skills) / len(skills)
    return round((filled + named) / 2, 4)


def _named(skill: list[str], words: set[str]) -> bool:
    telling = [word for word in skill if len(word) > _LONG] or skill
    return any(word in words for word in telling)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
