"""How large a job is, told by a look: the bounds that spare most jobs the tokenizer."""

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selection.registry import load_registry
from tasks.kinds import Embed, Generate, Parse
from worker.errors import InvalidJob
from worker.tokens import count_tokens, most_input_tokens

MODELS = load_registry().models
CHAT = [model for model in MODELS.values() if model.kind == "chat"]
SMALL = MODELS["text-embedding-3-small"]
# what grows in JSON or in tokens: control characters, quotes, astral and rare characters
TEXT = st.text(
    st.sampled_from('ab \n\t"\\\x01\x1f\x7f\u00fcü面\u2028🥐\U0001f9d1\u200d')
    | st.characters(exclude_categories=["Cs"]),
    max_size=80,
)
WORDY = st.text(
    st.sampled_from("aZ9 \n\t\x1c\x1f\x85\u00a0\u2003\u3000!.'-面🥐") | st.characters(exclude_categories=["Cs"])
)


def proper(text: str) -> str:
    return "x" + text.replace("\0", "")


def assert_bounded(kind: Any, fields: dict[str, Any]) -> None:
    payload = kind.payload(fields)
    facts = kind.facts(payload)
    for model in CHAT:
        provider = load_registry().provider_of(model)
        (request,) = kind.requests(payload, model)
        assert most_input_tokens(request.texts, model, provider) <= provider.most_input(facts.prompt_bytes)
        assert facts.answer_tokens >= request.max_tokens


# often enough that what it needs is seen beside what every request holds
MANY = 60


@given(description=TEXT, company=TEXT, title=TEXT)
@example(description="\x01", company="\x01" * 200, title="🥐" * 200)
@example(description="\x01\x02" * 40, company="", title="")
@settings(max_examples=60, deadline=None)
def test_no_parse_request_has_more_tokens_than_its_size_says(description: str, company: str, title: str) -> None:
    fields = {"job_description": description * MANY, "company_name": company, "role_title": title}
    assert_bounded(Parse(), {name: proper(value) for name, value in fields.items()})


JSON = st.recursive(
    TEXT.map(proper) | st.integers(-(10**20), 10**20) | st.booleans() | st.none() | st.floats(allow_nan=False,
                                                                                              allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.map(proper), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECT = st.dictionaries(TEXT.map(proper), JSON, max_size=4)


@given(description=TEXT, data=OBJECT, artifacts=st.lists(OBJECT, max_size=5), preferences=OBJECT)
@example(description="", data={}, artifacts=[{"a": "\x01🥐" * 2000}], preferences={})
@example(description="", data={}, artifacts=[], preferences={"a": "\x01🥐" * 2000})
@example(description="\x01🥐" * 40, data={}, artifacts=[], preferences={})
@settings(max_examples=60, deadline=None)
def test_no_generate_request_has_more_tokens_than_its_size_says(
    description: str, data: dict[str, Any], artifacts: list[Any], preferences: dict[str, Any]
) -> None:
    job_data = {**data, "raw_job_description": proper(description) * MANY}
    assert_bounded(Generate(), {"job_data": job_data, "artifacts": artifacts * 20, "preferences": preferences})


def test_an_ordinary_job_surely_fits_so_that_nobody_counts() -> None:
    posting = "We look for a baker who can make bread. " * 125
    for kind, fields in (
        (Parse(), {"job_description": posting}),
        (Generate(), {"job_data": {"raw_job_description": posting}, "artifacts": [{"title": "Baker"}] * 10}),
    ):
        facts = kind.facts(kind.payload(fields))
        for name in ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"):
            model = MODELS[name]
            provider = load_registry().provider_of(model)
            assert provider.most_input(facts.prompt_bytes) + facts.answer_tokens <= model.context


@given(WORDY)
@settings(max_examples=300, deadline=None)
def test_there_are_at_least_as_many_tokens_as_words(text: str) -> None:
    for tokenizer in ("o200k_base", "cl100k_base"):
        assert count_tokens(text, tokenizer) >= len(text.split())


@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-3-large"])
def test_a_text_that_is_too_long_at_a_look_is_refused_by_its_index(model: str) -> None:
    payload = Embed().payload({"texts": ["a", "SECRET " * 8192, "b " * 9000]})
    sentence = rf"^embed: field texts\.1: has 8192 words, {model} takes 8191 tokens$"
    with pytest.raises(InvalidJob, match=sentence):
        Embed().check_size(payload, MODELS[model])
    with pytest.raises(InvalidJob, match=r"texts\.0: has 8192 words"):
        Embed().check_size(Embed().payload({"texts": [("w " * 8192).strip()]}), MODELS[model])
    Embed().check_size(Embed().payload({"texts": ["w " * 8191, "x" * 100_000]}), MODELS[model])


def test_other_kinds_are_of_any_size_here() -> None:
    Parse().check_size(Parse().payload({"job_description": "w " * 90_000}), MODELS["gpt-4"])


def test_no_request_of_an_embed_job_has_more_tokens_than_the_provider_takes() -> None:
    texts = [("bread 面包 rolls, " * 900)[: 4096 + number] for number in range(260)]
    payload = Embed().payload({"texts": texts})
    requests = Embed().requests(payload, SMALL)
    assert [text for request in requests for text in request.texts] == texts
    assert len(requests) > 1
    import tiktoken

    encoding = tiktoken.get_encoding(SMALL.tokenizer)
    for request in requests:
        assert sum(len(encoding.encode_ordinary(text)) for text in request.texts) <= 300_000


def test_a_provider_may_take_less_in_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry()
    tight = registry.providers["openai"].model_copy(update={"texts_per_request": 3, "text_tokens_per_request": 5})
    small = registry.model_copy(update={"providers": {**registry.providers, "openai": tight}})
    monkeypatch.setattr("tasks.kinds.load_registry", lambda: small)
    monkeypatch.setattr("worker.tokens.count_tokens", lambda text, _: int(text))
    requests = Embed().requests(Embed().payload({"texts": ["1", "1", "1", "1", "4", "2", "5", "5"]}), SMALL)
    assert [request.texts for request in requests] == [["1", "1", "1"], ["1", "4"], ["2"], ["5"], ["5"]]


def test_a_long_text_is_taken_for_a_little_longer_than_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted in chunks, and each cut may hide a token or two from the count."""
    monkeypatch.setattr("worker.tokens.count_tokens", lambda text, _: 100_000)
    short, long = "a" * 4095, "a" * 4096
    for text, sizes in ((short, [3, 1]), (long, [2, 2])):
        large = SMALL.model_copy(update={"context": 100_000})
        requests = Embed().requests(Embed().payload({"texts": [text] * 4}), large)
        assert [len(request.texts) for request in requests] == sizes


def test_a_margin_is_rounded_up() -> None:
    provider = load_registry().providers["openai"]
    assert provider.most_input(1) == math.ceil(1.1) + 64 == 66
