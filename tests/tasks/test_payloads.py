"""What may be submitted, and the one sentence that everything else gets: it names the field, and it never holds
the text that was submitted."""

import json
import math
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.payloads import EmbedPayload, GeneratePayload, ParsePayload, Payload, check
from worker.errors import InvalidJob

MARKER = "SECRETMARKER"
GOOD: dict[type[Payload], dict[str, Any]] = {
    ParsePayload: {"job_description": "A baker."},
    GeneratePayload: {"job_data": {"raw_job_description": "A baker."}},
    EmbedPayload: {"texts": ["bread", "rolls"]},
}
POSTING = {"raw_job_description": "A baker."}


def refusal(payload: type[Payload], fields: dict[str, Any]) -> str:
    with pytest.raises(InvalidJob) as refused:
        check("kind", payload, fields)
    sentence = str(refused.value)
    assert sentence.startswith("kind: ")
    assert "\n" not in sentence and len(sentence) < 400
    assert MARKER not in sentence
    return sentence


def nested(levels: int) -> dict[str, Any]:
    outer: dict[str, Any] = {MARKER: 1}
    for _ in range(levels):
        outer = {"a": outer}
    return outer


@pytest.mark.parametrize(("payload", "fields"), GOOD.items())
def test_the_required_fields_are_enough(payload: type[Payload], fields: dict[str, Any]) -> None:
    made = check("kind", payload, fields)
    assert (made.user_id, made.api, made.model, made.x_llm_model, made.on_budget) == (None,) * 4 + ("downgrade",)


@pytest.mark.parametrize(
    ("payload", "field"), [(ParsePayload, "job_description"), (GeneratePayload, "job_data"), (EmbedPayload, "texts")]
)
def test_a_missing_field_is_named_with_what_belongs_there(payload: type[Payload], field: str) -> None:
    description = payload.model_fields[field].description
    assert refusal(payload, {"user_id": MARKER}) == f"kind: field {field} is missing: {description}"


WRONG = [
    (ParsePayload, "job_description", [None, 5, ["SECRETMARKER"], {"t": MARKER}, b"SECRETMARKER", True]),
    (ParsePayload, "job_description", ["", "  \n\t", f"\0{MARKER}", f"\ud800{MARKER}", MARKER * 20_000]),
    (ParsePayload, "company_name", [5, "", " ", f"\0{MARKER}", f"{MARKER}\udfff", MARKER + "x" * 300]),
    (ParsePayload, "role_title", [["SECRETMARKER"], "", f"{MARKER}\0", MARKER + "x" * 300]),
    (GeneratePayload, "job_data", [None, MARKER, [], {}, {"raw_job_description": ""}, {"raw_job_description": 5}]),
    (GeneratePayload, "job_data", [{"text": MARKER}, {"raw_job_description": "\n"}, {"raw_job_description": [MARKER]}]),
    (GeneratePayload, "raw_job_description", [{"raw_job_description": MARKER * 20_000}]),
    (GeneratePayload, "job_data", [{**POSTING, "x": math.nan}, {**POSTING, "x": [math.inf]}]),
    (GeneratePayload, "job_data", [{**POSTING, "x": MARKER * 100_000}, {**POSTING, "deep": nested(5000)}]),
    (GeneratePayload, "artifacts", [None, MARKER, {}, [MARKER], [{}, 5], [{"x": math.nan}], [{}] * 201]),
    (GeneratePayload, "artifacts", [[nested(5000)], [{"x": MARKER * 100_000}], ({},)]),
    (GeneratePayload, "preferences", [None, MARKER, [], {"tone": -math.inf}, nested(5000)]),
    (EmbedPayload, "texts", [None, MARKER, [], {}, (MARKER,), [None], [MARKER, 5], [MARKER, ""], ["\0"]]),
    (EmbedPayload, "texts", [[MARKER * 20_000]]),
    (EmbedPayload, "texts", [[MARKER, f"{MARKER}\ud800"], [MARKER] * 100_001]),
    (EmbedPayload, "use_case", [None, 5, "", "x" * 65, f"a\n{MARKER}"]),
    *((kind, "api", [5, "", "x" * 65, f"{MARKER}\r\n", "\0"]) for kind in GOOD),
    *((kind, "model", [5, "", "x" * 101, f"{MARKER}\n", [MARKER]]) for kind in GOOD),
    *((kind, "strategy", [5, "", "x" * 101, f"{MARKER}\t"]) for kind in GOOD),
    *((kind, "on_budget", [None, MARKER, "Downgrade", 1]) for kind in GOOD),
    *((kind, "user_id", [True, False, 1.5, "", "x" * 65, 10**64, f"{MARKER}\n"]) for kind in GOOD),
    *((kind, "user_id", [[MARKER], {"id": MARKER}, b"1"]) for kind in GOOD),
]  # fmt: skip
CASES = [(payload, field, value) for payload, field, values in WRONG for value in values]


@pytest.mark.parametrize(
    ("payload", "field", "value"), CASES,
    ids=[f"{payload.__name__}-{field}-{number}" for number, (payload, field, _) in enumerate(CASES)],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_fields_name_and_never_repeated(
    payload: type[Payload], field: str, value: Any
) -> None:
    name = "job_data" if field == "raw_job_description" else field
    assert f"field {name}" in refusal(payload, {**GOOD[payload], name: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_data", {**POSTING, "x": datetime(2026, 1, 1)}),
        ("job_data", {**POSTING, "x": {MARKER}}),
        ("artifacts", [{"x": b"SECRETMARKER"}]),
        ("preferences", {"x": object()}),
        ("job_data", {**POSTING, b"SECRETMARKER": 1}),
    ],
    ids=["datetime", "set", "bytes", "object", "a key of bytes"],
)
def test_what_json_cannot_hold_is_refused_like_any_other_fault(field: str, value: Any) -> None:
    assert f"field {field}" in refusal(GeneratePayload, {**GOOD[GeneratePayload], field: value})


@pytest.mark.parametrize("character", ["\0", "\ud800"], ids=["NUL", "half a surrogate pair"])
@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("job_data", lambda bad: {"raw_job_description": f"{MARKER}{bad}"}),
        ("job_data", lambda bad: {**POSTING, "summary": f"{MARKER}{bad}"}),
        ("artifacts", lambda bad: [{"title": "a"}, {"deep": [{"title": f"{MARKER}{bad}"}]}]),
        ("preferences", lambda bad: {"note": f"{MARKER}{bad}"}),
        ("preferences", lambda bad: {f"{MARKER}{bad}": 1}),
    ],
    ids=["description", "job_data", "artifacts", "preferences", "a name"],
)
def test_characters_that_cannot_be_sent_are_refused_in_every_field_of_generate(
    field: str, make: Any, character: str
) -> None:
    assert f"field {field}" in refusal(GeneratePayload, {**GOOD[GeneratePayload], field: make(character)})


def test_fields_that_are_too_large_together_are_named() -> None:
    halves = [{"a": MARKER * 50_000}, {"b": MARKER * 50_000}]
    sentence = refusal(GeneratePayload, {"job_data": POSTING, "artifacts": halves})
    assert "1000000" in sentence
    assert "job_data" in sentence or "artifacts" in sentence


@pytest.mark.parametrize("payload", GOOD)
@pytest.mark.parametrize("name", ["api_base", "api_key", "base_url", "queue", "max_tokens", "messages", "cost_usd"])
def test_an_unknown_field_is_refused_with_the_known_ones_and_without_its_value(
    payload: type[Payload], name: str
) -> None:
    sentence = refusal(payload, {**GOOD[payload], name: f"http://{MARKER}"})
    assert sentence == f"kind: field {name} is not known; known fields: {', '.join(payload.model_fields)}"


def test_an_unprintable_name_of_an_unknown_field_is_not_shown() -> None:
    assert refusal(ParsePayload, {**GOOD[ParsePayload], "\x1b[31m": 1}).isprintable()


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [(7, "7"), (0, "0"), (-3, "-3"), ("abc", "abc"), ("7", "7"), ("x" * 64, "x" * 64), (10**63, "1" + "0" * 63),
     ("ünï-水", "ünï-水"), (None, None)],
)  # fmt: skip
@pytest.mark.parametrize("payload", GOOD)
def test_a_user_id_is_an_integer_or_a_short_string(payload: type[Payload], given_id: Any, kept: str | None) -> None:
    assert check("kind", payload, {**GOOD[payload], "user_id": given_id}).user_id == kept


def test_the_largest_allowed_values_are_taken() -> None:
    check("kind", ParsePayload, {"job_description": "x" * 200_000, "company_name": "x" * 300, "role_title": "x" * 300})
    check("kind", EmbedPayload, {"texts": ["x"] * 20_000})
    check("kind", GeneratePayload, {"job_data": {"raw_job_description": "x" * 200_000}, "artifacts": [{}] * 200})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(job_data=st.dictionaries(st.text("abc", max_size=3), JSON, max_size=4), artifact=JSON)
@settings(max_examples=60, deadline=None)
def test_an_accepted_payload_comes_back_from_its_row_unchanged(job_data: dict[str, Any], artifact: Any) -> None:
    fields = {"job_data": {**job_data, **POSTING}, "artifacts": [{"a": artifact}], "preferences": {"p": artifact}}
    made = check("generate", GeneratePayload, {**fields, "user_id": 7})
    stored = json.loads(json.dumps(made.model_dump(mode="json", exclude_none=True)))
    again = check("generate", GeneratePayload, stored)
    assert again == made
    assert {name: stored[name] for name in fields} == fields


@pytest.mark.parametrize("value", [5, "x" * 101, f"{MARKER}\x1b[0m", ["gpt-4o"]])
def test_a_header_is_hostile_and_never_a_fault_of_the_job(value: Any) -> None:
    """Whether it names a model is asked only where headers are honoured; then this one names none."""
    made = ParsePayload.model_validate({**GOOD[ParsePayload], "x_llm_model": value})
    assert made.x_llm_model == "(unreadable)"
    assert ParsePayload.model_validate({**GOOD[ParsePayload], "x_llm_model": ""}).x_llm_model is None
