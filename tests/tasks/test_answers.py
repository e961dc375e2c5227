"""What a model must answer; a refusal names the field and holds nothing that the model wrote."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from tasks.answers import CVContent, Education, Experience, ParsedPosting, read_answer
from worker.kind import AnswerInvalid

MARKER = "SECRETMARKER"
POSTING: dict[str, Any] = {
    "company_name": "Bread & Co", "role_title": "Baker", "seniority": None, "employment_type": "full-time",
    "location": None, "salary": None, "summary": "Bakes.", "responsibilities": ["bake"], "required_skills": ["dough"],
    "preferred_skills": [], "qualifications": [], "benefits": [], "keywords": ["bread"], "confidence_score": 0.9,
}  # fmt: skip
JOB = {"title": "Baker", "organization": "Bread & Co", "period": None, "highlights": ["baked"]}
DEGREE = {"institution": "School", "qualification": "Baker", "period": "2020"}
CV: dict[str, Any] = {
    "headline": "Baker", "summary": "Bakes.", "skills": ["dough"], "experience": [JOB], "education": [DEGREE],
    "achievements": [], "cover_note": "Hello.",
}  # fmt: skip
BOTH = [(ParsedPosting, POSTING), (CVContent, CV)]


def fault(model: type[BaseModel], answer: Any) -> str:
    with pytest.raises(AnswerInvalid) as refused:
        read_answer(model, answer if isinstance(answer, str) else json.dumps(answer))
    assert MARKER not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("model", "answer"), BOTH)
def test_a_valid_answer_is_read_as_it_is(model: type[BaseModel], answer: dict[str, Any]) -> None:
    assert read_answer(model, json.dumps(answer)) == answer


@pytest.mark.parametrize(
    ("model", "answer", "field"), [(model, answer, field) for model, answer in BOTH for field in answer]
)
def test_every_field_is_required(model: type[BaseModel], answer: dict[str, Any], field: str) -> None:
    assert fault(model, {name: value for name, value in answer.items() if name != field}) == f"{field}: missing"


@pytest.mark.parametrize(
    ("section", "entry", "field"),
    [*(("experience", JOB, field) for field in JOB), *(("education", DEGREE, field) for field in DEGREE)],
)
def test_every_field_of_a_section_is_required(section: str, entry: dict[str, Any], field: str) -> None:
    short = {name: value for name, value in entry.items() if name != field}
    assert fault(CVContent, {**CV, section: [entry, short]}) == f"{section}.1.{field}: missing"


@pytest.mark.parametrize(("model", "answer"), BOTH)
def test_an_extra_field_is_refused_without_its_name(model: type[BaseModel], answer: dict[str, Any]) -> None:
    assert fault(model, {**answer, MARKER: 1}) == "the answer: extra_forbidden"


@pytest.mark.parametrize(("section", "entry"), [("experience", JOB), ("education", DEGREE)])
def test_an_extra_field_of_a_section_is_refused_without_its_name(section: str, entry: dict[str, Any]) -> None:
    assert fault(CVContent, {**CV, section: [{**entry, MARKER: 1}]}) == f"{section}.0: extra_forbidden"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence_score", 1.01), ("confidence_score", -0.01), ("confidence_score", float("nan")),
        ("confidence_score", float("inf")), ("confidence_score", MARKER), ("confidence_score", None),
        ("summary", None), ("summary", [MARKER]), ("role_title", 5), ("keywords", MARKER), ("keywords", [[MARKER]]),
        ("keywords", None), ("company_name", {MARKER: 1}),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_field(field: str, value: Any) -> None:
    assert fault(ParsedPosting, {**POSTING, field: value}).startswith(field)


@pytest.mark.parametrize("score", [0, 1, 0.5])
def test_the_confidence_may_be_anything_from_0_to_1(score: float) -> None:
    assert read_answer(ParsedPosting, json.dumps({**POSTING, "confidence_score": score}))["confidence_score"] == score


@pytest.mark.parametrize(
    "text",
    ["", " ", MARKER, "null", "[]", f'"{MARKER}"', "5", "{}{}", '{"summary": "\\ud800"}', "[" * 10_000],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(text: str) -> None:
    fault(ParsedPosting, text)


@pytest.mark.parametrize("model", [ParsedPosting, CVContent])
def test_the_schema_is_one_that_strict_mode_takes(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def test_the_section_models_are_those_whose_names_may_be_shown() -> None:
    assert set(CVContent.model_json_schema()["$defs"]) == {Experience.__name__, Education.__name__}


ALMOST = {
    "fenced": lambda text: f"```json\n{text}\n```",
    "after a sentence": lambda text: f"Here is the posting:\n\n{text}\n\nLet me know.",
    "with a trailing comma": lambda text: text[:-1] + ",}",
    "without its last brace": lambda text: text[:-1],
}


@pytest.mark.parametrize("how", ALMOST)
@pytest.mark.parametrize(("model", "answer"), BOTH)
def test_what_is_almost_json_is_repaired(model: type[BaseModel], answer: dict[str, Any], how: str) -> None:
    text = ALMOST[how](json.dumps(answer))
    with pytest.raises(ValueError):
        json.loads(text)
    assert read_answer(model, text) == answer


@pytest.mark.parametrize("text", ["", "I cannot do that.", "{" * 5000, "[1, 2", '"text', "null null", "x" * 100_000])
def test_what_is_nothing_like_it_stays_invalid(text: str) -> None:
    assert fault(ParsedPosting, text).startswith("the answer: ")


def test_a_repair_invents_no_fields() -> None:
    cut = json.dumps(POSTING)[:120]
    assert fault(ParsedPosting, cut).endswith(": missing")
