"""How good a generated CV is, 0-1, by rules: the same CV, posting and artifacts always score the same."""

from typing import Any

from tasks.grounding import grounding, texts_of, words_of

SECTIONS = ("headline", "summary", "skills", "experience", "education", "achievements", "cover_note")
# of a skill of several words, those that say something
_LONG = 3


def cv_quality(content: dict[str, Any], job_data: dict[str, Any], artifacts: list[Any]) -> float:
    """The mean of two shares, sections that are filled and skills of the posting that the CV names, times its grounding
    in the artifacts. A posting without a list of skills (one that was not parsed) is scored by the sections alone.
    docs/quality.md"""
    score = sum(bool(content[section]) for section in SECTIONS) / len(SECTIONS)
    given = job_data.get("required_skills")
    skills = [words_of(skill) for skill in given if isinstance(skill, str)] if isinstance(given, list) else []
    skills = [skill for skill in skills if skill]
    if skills:
        words = {word for text in texts_of(content) for word in words_of(text)}
        score = (score + sum(_named(skill, words) for skill in skills) / len(skills)) / 2
    posting = job_data.get("raw_job_description")
    return round(score * grounding(content, artifacts, posting if isinstance(posting, str) else ""), 4)


def _named(skill: list[str], words: set[str]) -> bool:
    telling = [word for word in skill if len(word) > _LONG] or skill
    return any(word in words for word in telling)
