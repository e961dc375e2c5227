"""The quality score of a CV: hand-made CVs stand in the order in which a person would put them."""

from itertools import pairwise
from typing import Any

import pytest

from tasks.quality import SECTIONS, cv_quality

POSTING = {"required_skills": ["Python", "PostgreSQL", "Project management", "Docker"]}
EMPTY: dict[str, Any] = {
    "headline": "", "summary": "", "skills": [], "experience": [], "education": [], "achievements": [],
    "cover_note": "",
}  # fmt: skip
GOOD: dict[str, Any] = {
    "headline": "Senior Python developer",
    "summary": "Ten years of Python and PostgreSQL services.",
    "skills": ["Python", "PostgreSQL", "Docker"],
    "experience": [
        {"title": "Developer", "organization": "ACME", "period": "2015-2025",
         "highlights": ["Led project management for six people"]},
    ],
    "education": [{"institution": "TU Berlin", "qualification": "MSc", "period": None}],
    "achievements": ["Speaker at EuroPython"],
    "cover_note": "I look forward to hearing from you",
}  # fmt: skip
BEST_TO_WORST = [
    GOOD,
    {**GOOD, "achievements": []},
    {**GOOD, "achievements": [], "skills": ["Python", "PostgreSQL"]},
    {**GOOD, "achievements": [], "skills": ["Python"], "experience": [], "summary": "A developer"},
    {**EMPTY, "headline": "Developer", "cover_note": "Hello"},
    EMPTY,
]


def test_better_cvs_score_higher() -> None:
    scores = [cv_quality(cv, POSTING, []) for cv in BEST_TO_WORST]
    assert all(better > worse for better, worse in pairwise(scores)), scores


def test_the_best_is_1_and_an_empty_one_is_0() -> None:
    assert cv_quality(GOOD, POSTING, []) == 1.0
    assert cv_quality(EMPTY, POSTING, []) == 0.0


def test_the_score_is_the_mean_of_sections_and_skills() -> None:
    half = {**EMPTY, "headline": "Python", "skills": ["Docker"]}
    assert cv_quality(half, POSTING, []) == round((2 / 7 + 2 / 4) / 2, 4)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_counts(section: str) -> None:
    without = {**GOOD, section: "" if isinstance(GOOD[section], str) else []}
    assert cv_quality(without, {}, []) == round(6 / 7, 4)


@pytest.mark.parametrize(
    "job_data", [{}, {"required_skills": []}, {"required_skills": None}, {"required_skills": [" "]}]
)
def test_a_posting_without_skills_is_scored_by_sections_alone(job_data: dict[str, Any]) -> None:
    assert cv_quality(GOOD, job_data, []) == 1.0


@pytest.mark.parametrize("skills", [5, True, 1.5, {"a": 1}, "Python", [5, None, ["Python"], {"a": "b"}]])
def test_skills_of_any_shape_do_no_harm(skills: Any) -> None:
    """`job_data` is the application's own object: it may hold anything under that name."""
    assert 0 <= cv_quality(GOOD, {"required_skills": skills}, []) <= 1


@pytest.mark.parametrize(
    ("skill", "sentence"),
    [
        ("Python", "I write python daily"),
        ("Python", "I know Python."),
        ("SQL", "Reports in SQL, Excel"),
        ("SQL", "Expert in sql."),
        ("C++", "Games in C++ and Rust"),
        ("C#", "Services in C# on Windows"),
        ("Go", "Services in Go on Linux"),
        ("R", "Statistics in R and SAS"),
        ("Node.js", "Servers in Node.js."),
        ("Führung", "Zehn Jahre Führung von Teams"),
    ],
)
def test_a_skill_that_the_cv_names_is_found(skill: str, sentence: str) -> None:
    assert cv_quality({**EMPTY, "summary": sentence}, {"required_skills": [skill]}, []) == round((1 / 7 + 1) / 2, 4)


@pytest.mark.parametrize(
    ("skill", "sentence"),
    [
        ("Java", "I write JavaScript"),
        ("Rust", "A trusted colleague"),
        ("Knowledge of Excel", "A man of letters"),
    ],
)
def test_a_skill_is_not_found_inside_another_word(skill: str, sentence: str) -> None:
    assert cv_quality({**EMPTY, "summary": sentence}, {"required_skills": [skill]}, []) == round(1 / 14, 4)


def test_the_score_is_stable() -> None:
    assert len({cv_quality(BEST_TO_WORST[2], POSTING, []) for _ in range(5)}) == 1
