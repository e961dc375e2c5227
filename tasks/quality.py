"""How good a generated CV is, 0-1, by rules: the same CV and posting always score the same."""

import re
from collections.abc import Iterable
from typing import Any

SECTIONS = ("headline", "summary", "skills", "experience", "education", "achievements", "cover_note")
_WORD = re.compile(r"[a-z][a-z+#.-]{2,}")


def cv_quality(content: dict[str, Any], job_data: dict[str, Any]) -> float:
    """The mean of two shares: sections that are filled, and skills of the posting that the CV names. A posting
    without a list of skills (one that was not parsed) is scored by its sections alone."""
    filled = sum(bool(content[section]) for section in SECTIONS) / len(SECTIONS)
    skills = [skill for skill in job_data.get("required_skills") or () if isinstance(skill, str) and skill.strip()]
    if not skills:
        return round(filled, 4)
    words = set(_words(_texts(content)))
    named = sum(any(word in words for word in _words([skill])) for skill in skills) / len(skills)
    return round((filled + named) / 2, 4)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _words(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        yield from _WORD.findall(text.lower())
