"""What a CV invents lowers its score: hand-made CVs stand in the order in which a person would put them."""

import random
import time
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest

from tasks.grounding import grounding
from tasks.quality import cv_quality

POSTING = {
    "raw_job_description": "Bäckerei Forno seeks a head baker. 5 years of practice, 38 hours a week, 2,400 EUR.",
    "required_skills": ["sourdough", "team leadership", "food safety", "stock control"],
}
ARTIFACTS: list[dict[str, Any]] = [
    {"type": "experience", "title": "Baker", "company": "Bäckerei Müller GmbH", "from": 2015, "to": "2021-03",
     "text": "Led a team of six. Baked 1,200 loaves a day, sourdough and rye. Responsible for food safety."},
    {"type": "experience", "title": "Shift Manager", "company": "Panificio Aurora", "period": "2021 - 2025",
     "text": "Planned shifts, managed the stock, cut waste by 12.5%."},
    {"type": "education", "school": "Berufsschule Köln", "degree": "Journeyman's certificate, baking", "year": 2014},
    {"type": "award", "text": "Regional bread prize 2019"},
]  # fmt: skip
HONEST: dict[str, Any] = {
    "headline": "Baker and shift manager",
    "summary": "Baker with sourdough practice who led a team of 6 and answered for food safety.",
    "skills": ["Sourdough", "Team leadership", "Food safety", "Stock control"],
    "experience": [
        {"title": "Shift Manager", "organization": "Panificio Aurora", "period": "2021 - 2025",
         "highlights": ["Cut waste by 12,5 %", "Managed stock"]},
        {"title": "Baker", "organization": "Backerei Muller", "period": "2015 - 2021",
         "highlights": ["Baked 1.200 loaves a day"]},
    ],
    "education": [{"institution": "Berufsschule Köln", "qualification": "Baking certificate", "period": "2014"}],
    "achievements": ["Regional bread prize, 2019"],
    "cover_note": "I would love to bake with you, 38 hours a week.",
}  # fmt: skip
PARTIAL = {**HONEST, "achievements": [], "education": [], "skills": ["Sourdough", "Food safety"],
           "summary": "Baker with sourdough practice.", "cover_note": ""}  # fmt: skip
EMPTY = {name: type(value)() for name, value in HONEST.items()}
NO_ONE: dict[str, Any] = {
    "headline": "Astronaut with 30 years in orbit", "summary": "Flew 99 missions.", "skills": ["Orbital docking"],
    "experience": [{"title": "Commander", "organization": "Starfleet", "period": "1999", "highlights": []}],
    "education": [{"institution": "Moon University", "qualification": "PhD, astrophysics", "period": "1990"}],
    "achievements": ["Galactic medal 1998"], "cover_note": "Hello",
}  # fmt: skip


def but(**changes: Any) -> dict[str, Any]:
    """The honest CV with the first job, or the first school, or a section changed."""
    made = deepcopy(HONEST)
    for name, value in changes.items():
        if name in made:
            made[name] = value
        elif name in made["experience"][0]:
            made["experience"][0][name] = value
        else:
            made["education"][0][name] = value
    return made


EMPLOYER = but(organization="Globex Bakeries")
TWO_EMPLOYERS = deepcopy(EMPLOYER)
TWO_EMPLOYERS["experience"][1]["organization"] = "Initech"
INVENTED = {
    "employer": EMPLOYER,
    "employer made of a given one": but(organization="Aurora Airlines"),
    "title": but(title="Chief Executive"),
    "raised title": but(title="Senior Shift Manager"),
    "school": but(institution="Sorbonne"),
    "degree": but(qualification="Master of Science"),
    "skill": but(skills=[*HONEST["skills"], "Kubernetes"]),
    "short skill": but(skills=[*HONEST["skills"], "C++"]),
    "date": but(period="2009 - 2025"),
    "figure": but(highlights=["Cut waste by 45 %", "Managed stock"]),
    "figure of a tenth": but(highlights=["Cut waste by 125 %", "Managed stock"]),
    "figure in the summary": but(summary=HONEST["summary"] + " 17 awards."),
    "figure of the posting": but(summary=HONEST["summary"] + " 38 years of practice."),
    "figure in the note": but(cover_note="I have baked for 41 years."),
}


def score(cv: dict[str, Any], artifacts: list[Any] = ARTIFACTS) -> float:
    return cv_quality(cv, POSTING, artifacts)


def factor(cv: dict[str, Any], artifacts: list[Any] = ARTIFACTS) -> float:
    return grounding(cv, artifacts, POSTING["raw_job_description"])  # type: ignore[arg-type]


def test_an_honest_full_cv_has_all_its_claims_supported_and_the_best_score() -> None:
    assert factor(HONEST) == 1.0
    assert score(HONEST) == 1.0


def test_scores_stand_in_the_order_of_a_person() -> None:
    order = {
        "honest and full": HONEST, "honest and partial": PARTIAL, "an invented employer": EMPLOYER,
        "two of them": TWO_EMPLOYERS,
        "and an invented degree": {**TWO_EMPLOYERS, "education": NO_ONE["education"]},
        "somebody else": NO_ONE, "empty": EMPTY,
    }  # fmt: skip
    scores = {name: score(cv) for name, cv in order.items()}
    assert all(better > worse for better, worse in pairwise(scores.values())), scores
    assert scores["empty"] == 0


@pytest.mark.parametrize("what", INVENTED)
def test_whatever_is_invented_lowers_the_score(what: str) -> None:
    assert score(INVENTED[what]) < score(HONEST)


def test_each_further_invention_lowers_it_more() -> None:
    skills = [but(skills=[*HONEST["skills"], *["Kubernetes", "Terraform", "Go"][:count]]) for count in range(4)]
    assert all(better > worse for better, worse in pairwise(map(score, skills)))


def test_naming_a_wanted_skill_that_nothing_supports_does_not_pay() -> None:
    wanted = {**POSTING, "required_skills": ["sourdough", "Kubernetes"]}
    honest, liar = but(skills=["Sourdough"]), but(skills=["Sourdough", "Kubernetes"])
    assert cv_quality(liar, wanted, ARTIFACTS) < cv_quality(honest, wanted, ARTIFACTS)


@pytest.mark.parametrize("artifacts", [[], [{}], [{"text": " "}], [{"text": None, "list": []}]])
def test_without_artifacts_grounding_is_not_counted(artifacts: list[Any]) -> None:
    assert factor(NO_ONE, artifacts) == 1.0
    assert score(HONEST, artifacts) == 1.0


def test_a_cv_without_claims_invents_nothing() -> None:
    assert factor(EMPTY) == 1.0


def test_a_claim_without_a_telling_word_is_none() -> None:
    assert factor(but(organization="The GmbH", title="", skills=["", "–"])) == 1.0


@pytest.mark.parametrize(
    ("given", "claimed"),
    [
        ("1,200 loaves", "1200"), ("1200", "1.200"), ("1’200", "1,200"), ("12.5 %", "12,5%"), ("six people", "6"),
        ("2021-03-01", "03/2021"), ("٢٠٢٤", "2024"), ("２０２４", "2024"), ("H2O, 7", "7"), ("since 2019.", "2019"),
        ("nothing", "S3 and B2B, p95"), ("1,234,567", "1234567"), ("2019–2021", "2019-2021"),
    ],
)  # fmt: skip
def test_numbers_are_alike_however_they_are_written(given: str, claimed: str) -> None:
    cv = {**EMPTY, "summary": claimed}
    assert factor(cv, [{"text": given}]) == 1.0


@pytest.mark.parametrize(
    ("given", "claimed"),
    [("12.5", "125"), ("12,5", "125"), ("1,200", "200"), ("2019", "2018"), ("x 100", "1000"), ("2", "22")],
)
def test_other_numbers_are_other_numbers(given: str, claimed: str) -> None:
    assert factor({**EMPTY, "summary": claimed}, [{"text": given + " or so"}]) == 0.25


@pytest.mark.parametrize(
    ("given", "claimed"),
    [("Société Générale", "Societe Generale"), ("東京大学で研究", "東京大学"), ("ﬁnance group", "Finance Group"),
     ("STRAẞE AG", "Strasse"), ("Иванов и Ко", "ИВАНОВ"), ("Rolls-Royce", "Rolls Royce"),
     ("Rolls Royce", "Rolls-Royce")],
)  # fmt: skip
def test_names_are_alike_in_every_script(given: str, claimed: str) -> None:
    cv = {**EMPTY, "experience": [{"title": "", "organization": claimed, "period": None, "highlights": []}]}
    assert factor(cv, [{"company": given}]) == 1.0
    assert factor(cv, [{"company": "ACME"}]) == 0.25


@pytest.mark.parametrize(
    "artifacts", [[{"a": [[{"b": 1.5}], None, True]}], [{"年": "二〇一五"}], [{"x": "\U0001f600"}]]
)
def test_artifacts_of_any_shape_do_no_harm(artifacts: list[Any]) -> None:
    assert 0 <= factor(HONEST, artifacts) <= 1


def seconds(artifacts: list[Any], cv: dict[str, Any]) -> float:
    """Of processor time, which others on the machine do not take."""
    started = time.thread_time()
    factor(cv, artifacts)
    return time.thread_time() - started


HOSTILE = {
    "words": lambda size: " ".join(f"w{random.Random(n).randrange(10**9)}" for n in range(size // 11)),
    "one word": lambda size: "x" * size,
    "hyphens": lambda size: "a-" * (size // 2),
    "dots": lambda size: "." * size,
    "digits": lambda size: "1," * (size // 2),
    "long number": lambda size: "7" * size,
    "ideographs": lambda size: "東" * size,
    "accents": lambda size: "e\u0301" * (size // 2),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_longer_text_takes_as_much_longer_and_no_more(what: str) -> None:
    """Were it quadratic, four times the text would take sixteen times as long."""

    def of(size: int) -> float:
        text = HOSTILE[what](size)
        cv = {**EMPTY, "summary": text[:20_000], "skills": [text[:200]] * 100}
        return min(seconds([{"text": text}], cv) for _ in range(3))

    assert of(800_000) < 10 * of(200_000) + 0.05
