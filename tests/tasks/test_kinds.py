"""Each kind of job: what it asks which model for, and the shape of its result."""

import itertools
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from db.models import JobVectors
from selection.registry import load_registry
from tasks.answers import CVContent, ParsedPosting
from tasks.kinds import Embed, Generate, Parse, cut_texts
from tasks.vectors import Vector, split
from worker.errors import InvalidJob
from worker.kind import Answer, AnswerInvalid, ChatRequest, EmbedRequest, Vectors

MODELS = load_registry().models
CHAT = [model.id for model in MODELS.values() if model.kind == "chat"]
SMALL = MODELS["text-embedding-3-small"]
META: dict[str, Any] = {"model_used": "text-embedding-3-small", "cost_usd": 0.00000006}
WISH = {"tone": "creative"}
PARSE = {"job_description": "A baker.", "company_name": "Bread", "user_id": 7, "model": "gpt-4o", "api": "keywords"}
GENERATE = {"job_data": {"raw_job_description": "A baker.", "processing_metadata": {"cost_usd": 1}},
            "artifacts": [{"a": "ü"}], "preferences": WISH}  # fmt: skip


def ask(kind: Any, fields: dict[str, Any], model: str) -> ChatRequest:
    (request,) = kind.requests(kind.payload(fields), MODELS[model])
    assert isinstance(request, ChatRequest)
    return request


@pytest.mark.parametrize("model", CHAT)
def test_temperature_and_tokens_are_the_customers_within_what_the_model_can_answer(model: str) -> None:
    parse, generate = ask(Parse(), PARSE, model), ask(Generate(), GENERATE, model)
    assert (parse.temperature, parse.max_tokens) == (0.1, 1000)
    assert (generate.temperature, generate.max_tokens) == (0.3, 2500)
    small = MODELS[model].model_copy(update={"max_output": 99})
    (request,) = Parse().requests(Parse().payload(PARSE), small)
    assert request.max_tokens == 99


@pytest.mark.parametrize("model", CHAT)
def test_the_schema_stands_in_the_prompt_only_where_the_model_cannot_be_given_one(model: str) -> None:
    for kind, fields, answer in ((Parse(), PARSE, ParsedPosting), (Generate(), GENERATE, CVContent)):
        request = ask(kind, fields, model)
        assert (request.schema_name, request.schema) == (answer.__name__, answer.model_json_schema())
        assert (json.dumps(request.schema) in request.system) == (MODELS[model].json_by in ("object", "prompt"))


def test_all_ways_to_json_are_tried_above() -> None:
    assert {MODELS[model].json_by for model in CHAT} == {"schema", "tool", "object", "prompt"}


def test_the_jobs_data_goes_into_the_user_message_as_json_and_nothing_else_does() -> None:
    assert json.loads(ask(Parse(), PARSE, "gpt-4o").user) == {"job_description": "A baker.", "company_name": "Bread"}
    request = ask(Generate(), GENERATE, "gpt-4o")
    assert json.loads(request.user) == {
        "job_data": {"raw_job_description": "A baker."}, "artifacts": [{"a": "ü"}], "preferences": WISH,
    }  # fmt: skip
    assert "ü" in request.user and "baker" not in request.system


@pytest.mark.parametrize("kind", [Parse(), Generate(), Embed()], ids=lambda kind: kind.name)
def test_what_a_job_says_about_its_model_reaches_selection(kind: Any) -> None:
    fields = {"parse": PARSE, "generate": GENERATE, "embed": {"texts": ["a"]}}[kind.name]
    said = {"api": "gap", "strategy": "balanced", "model": "m", "x_llm_model": "h"}
    facts = kind.facts(kind.payload({**fields, **said}))
    assert (facts.kind, facts.api, facts.strategy) == (kind.name, "gap", "balanced")
    assert (facts.requested_model, facts.header_model) == ("m", "h")


def test_selection_sees_words_artifacts_and_the_wish_for_creative_writing() -> None:
    facts = Generate().facts(Generate().payload({
        "job_data": {"raw_job_description": "w " * 600}, "artifacts": [{}] * 7, "preferences": WISH,
    }))  # fmt: skip
    assert (facts.words, facts.artifacts, facts.creative) == (600, 7, True)
    assert not Generate().facts(Generate().payload({**GENERATE, "preferences": {"tone": "plain"}})).creative
    assert Parse().facts(Parse().payload({"job_description": "w " * 250})).words == 250
    assert (
        Embed().facts(Embed().payload({"texts": ["a"], "use_case": "complex_matching"})).use_case == "complex_matching"
    )


def test_a_parse_result_is_the_posting_with_its_text_and_metadata() -> None:
    posting = {field: [] for field in ParsedPosting.model_fields} | {
        "company_name": None, "role_title": "Baker", "seniority": None, "employment_type": None, "location": None,
        "salary": None, "summary": "s", "confidence_score": 0.75,
    }  # fmt: skip
    data, quality = Parse().read(Parse().payload(PARSE), Answer(json.dumps(posting), None, None))
    assert quality == 0.75
    assert Parse().result(data, META) == {**posting, "raw_job_description": "A baker.", "processing_metadata": META}
    again = {"job_data": Parse().result(data, META)}
    assert Generate().payload(again).description == "A baker."


def test_a_generate_result_is_content_and_metadata() -> None:
    content = {"headline": "h", "summary": "s", "skills": ["bread"], "experience": [], "education": [],
               "achievements": [], "cover_note": ""}  # fmt: skip
    data, quality = Generate().read(Generate().payload(GENERATE), Answer(json.dumps(content), None, None))
    # three sections of seven; the one class of claims, skills, has no support in the artifacts
    assert quality == round(3 / 7 / 4, 4)
    assert Generate().result(data, META) == {"content": content, "processing_metadata": META}


@pytest.mark.parametrize("kind", [Parse(), Generate()], ids=lambda kind: kind.name)
def test_an_answer_that_does_not_validate_is_refused(kind: Any) -> None:
    with pytest.raises(AnswerInvalid):
        kind.read(kind.payload(PARSE if kind.name == "parse" else GENERATE), Answer("{}", None, None))


def test_an_embed_answer_without_vectors_is_refused() -> None:
    with pytest.raises(AnswerInvalid):
        Embed().read(Embed().payload({"texts": ["a"]}), Answer("text", None, None))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_an_embed_result_is_one_item_per_text_in_order_over_all_parts() -> None:
    rows = [JobVectors(job_id="j", part=0, dimensions=2, count=2, vectors=floats(1, 2, 3, 4)),
            JobVectors(job_id="j", part=1, dimensions=2, count=1, vectors=floats(5, 6))]  # fmt: skip
    items = kombu_json.loads(kombu_json.dumps(Embed().result(rows, META)))
    assert [item["embedding"] for item in items] == [[1, 2], [3, 4], [5, 6]]
    assert [item["text_index"] for item in items] == [0, 1, 2]
    for item in items:
        assert set(item) == {"embedding", "model_used", "dimensions", "text_index", "cost_share_usd"}
        assert (item["model_used"], item["dimensions"]) == ("text-embedding-3-small", 2)
        assert item["cost_share_usd"] == pytest.approx(0.00000002, rel=1e-12)


def test_an_embed_answer_is_kept_as_it_came() -> None:
    vectors = Vectors(floats(1, 2), 1, 2)
    data, quality = Embed().read(Embed().payload({"texts": ["a"]}), Answer("", vectors, None))
    assert (data, quality) == (vectors, None)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_a_vector_survives_the_message_to_the_last_bit(values: list[float]) -> None:
    data = floats(*values)
    arrived = kombu_json.loads(kombu_json.dumps({"v": [Vector(data)]}))["v"][0]
    assert isinstance(arrived, list)
    assert floats(*arrived) == data
    assert [bytes(vector.data) for vector in split(data * 3, len(values))] == [data] * 3


def cut(texts: list[str]) -> list[list[str]]:
    return list(cut_texts(texts, SMALL))


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2047, [2047]), (2048, [2048]), (2049, [2048, 1]),
                                              (4096, [2048, 2048]), (4097, [2048, 2048, 1])])  # fmt: skip
def test_a_request_holds_at_most_2048_texts(count: int, sizes: list[int]) -> None:
    texts = [f"t{n}" for n in range(count)]
    parts = cut(texts)
    assert [len(part) for part in parts] == sizes
    assert list(itertools.chain(*parts)) == texts


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [([8000] * 37 + [4000], [38]), ([8000] * 37 + [4001], [37, 1]), ([8000] * 76, [37, 37, 2]), ([1, 8191], [2])],
)
def test_a_request_holds_at_most_300_000_tokens(
    counts: list[int], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.tokens.count_tokens", lambda text, _: int(text))
    parts = cut([str(count) for count in counts])
    assert [len(part) for part in parts] == sizes
    assert [int(text) for part in parts for text in part] == counts


def test_a_text_that_is_too_long_names_its_index_and_not_its_text() -> None:
    fits, long = "bread " * 8000, "SECRETMARKER " * 8200
    assert len(cut([fits])) == 1
    with pytest.raises(
        InvalidJob, match=r"^embed: field texts\.2: has \d+ tokens, text-embedding-3-small takes 8191 tokens$"
    ):
        cut(["a", fits, long, long])


def test_the_requests_of_an_embed_job_are_its_texts() -> None:
    requests = Embed().requests(Embed().payload({"texts": ["a", "b"]}), SMALL)
    assert requests == [EmbedRequest(["a", "b"])]
