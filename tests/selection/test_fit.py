"""What a job needs of a model: room for prompt and answer, a long enough answer, and that it still exists."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from budget.money import Rates, Usage
from selection.errors import CannotSelect, NothingFits
from selection.reasons import Reason, is_reason
from selection.registry import Model, Registry, load_registry
from selection.rules import JobFacts
from selection.select import Selection, select
from selection.settings import SelectionSettings
from selection.strategies import load_strategies

MINI, GPT = "gpt-4o-mini", "gpt-4o"
SONNET, OPUS = "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
SETTINGS = SelectionSettings(enable_llm_model_override=True)
GENERAL = JobFacts(kind="parse", words=300, answer_tokens=1000)


def changed(**models: dict[str, Any]) -> Registry:
    """The shipped registry with other fields of some models, by their names with `_` for `-`."""
    made = load_registry()
    known = {name.replace("-", "_").replace(".", "_"): model for name, model in made.models.items()}
    new = {known[name].id: known[name].model_copy(update=fields) for name, fields in models.items()}
    return Registry(providers=made.providers, models=made.models | new)


def ids(found: Selection) -> list[str]:
    return [model.id for model in found.candidates]


def passed(found: Selection) -> dict[str, Reason]:
    return {model.id: why for model, why in found.passed_over}


def test_a_model_that_cannot_hold_prompt_and_answer_is_passed_over_and_the_reason_says_so() -> None:
    facts = replace(GENERAL, prompt_bytes=1_000_000)
    found = select(facts, SETTINGS, count=lambda _: 127_001)
    assert ids(found) == [SONNET]
    assert found.reason == "context_too_small"
    assert passed(found) == {GPT: Reason.CONTEXT_TOO_SMALL, MINI: Reason.CONTEXT_TOO_SMALL}
    assert ids(select(facts, SETTINGS, count=lambda _: 127_000)) == [GPT, SONNET, MINI], "exactly full is no fault"


def test_a_first_choice_that_fits_keeps_its_reason_though_others_are_passed_over() -> None:
    registry = changed(claude_sonnet_4_20250514={"max_output": 999})
    found = select(GENERAL, SETTINGS, registry=registry)
    assert (ids(found), found.reason) == ([GPT, MINI], "balanced_strategy_general_complexity")
    assert passed(found) == {SONNET: Reason.MAX_OUTPUT_TOO_SMALL}


def test_a_model_that_cannot_write_the_whole_answer_is_passed_over() -> None:
    for longest, first in ((999, SONNET), (1000, GPT)):
        found = select(GENERAL, SETTINGS, registry=changed(gpt_4o={"max_output": longest}))
        assert found.candidates[0].id == first
    assert select(GENERAL, SETTINGS, registry=changed(gpt_4o={"max_output": 999})).reason == "max_output_too_small"


@pytest.mark.parametrize("asked", [{"requested_model": GPT}, {"api": "keywords"}])
def test_a_model_that_was_asked_for_is_passed_over_all_the_same(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", GPT)
    facts = replace(GENERAL, prompt_bytes=1_000_000, **asked)
    found = select(facts, SelectionSettings(), count=lambda _: 150_000)
    assert (ids(found), found.reason) == ([SONNET], "context_too_small")


def test_a_deprecated_model_is_passed_over_from_its_day_on() -> None:
    registry = changed(gpt_4o={"deprecated": date(2027, 1, 31)})
    before = select(GENERAL, SETTINGS, registry=registry, today=date(2027, 1, 30))
    assert (ids(before)[0], before.passed_over) == (GPT, ())
    found = select(GENERAL, SETTINGS, registry=registry, today=date(2027, 1, 31))
    assert (ids(found), found.reason) == ([SONNET, MINI], "model_deprecated")
    assert ids(select(GENERAL, SETTINGS, registry=registry))[0] == GPT, "nobody said what day it is"


def test_a_date_alone_fails_no_job() -> None:
    gone = {"deprecated": date(2020, 1, 1)}
    registry = changed(gpt_4o=gone, gpt_4o_mini=gone, claude_sonnet_4_20250514=gone, text_embedding_3_small=gone)
    found = select(GENERAL, SETTINGS, registry=registry, today=date(2027, 1, 1))
    assert (ids(found), found.passed_over) == ([GPT, SONNET, MINI], ())
    assert found.reason == "balanced_strategy_general_complexity"
    embed = select(JobFacts(kind="embed"), SETTINGS, registry=registry, today=date(2027, 1, 1))
    assert (ids(embed), embed.reason) == (["text-embedding-3-small"], "balanced_strategy_standard_use_case")


def test_where_nothing_fits_one_sentence_says_what_there_is() -> None:
    with pytest.raises(NothingFits, match=r"an answer of 1000 tokens .* gpt-4o \(128000\)") as refused:
        select(replace(GENERAL, prompt_bytes=10**7), SETTINGS, count=lambda _: 10**7)
    assert isinstance(refused.value, CannotSelect)
    assert "\n" not in str(refused.value)


def test_tokens_are_counted_only_where_the_size_leaves_it_open() -> None:
    counted: list[str] = []

    def count(model: Model) -> int:
        counted.append(model.id)
        return 1

    # margins: OpenAI 1.1 and 64, Anthropic 1.5 and 600
    for size, asked in ((5_000, set()), (115_000, set()), (116_000, {GPT, MINI}), (140_000, {GPT, MINI, SONNET})):
        counted.clear()
        assert ids(select(replace(GENERAL, prompt_bytes=size), SETTINGS, count=count)) == [GPT, SONNET, MINI]
        assert set(counted) == asked


def test_who_cannot_count_takes_every_model_as_large_enough() -> None:
    assert ids(select(replace(GENERAL, prompt_bytes=10**7), SETTINGS)) == [GPT, SONNET, MINI]


FACTS = st.builds(
    JobFacts,
    kind=st.sampled_from(["parse", "generate", "embed"]),
    words=st.integers(0, 1200),
    artifacts=st.integers(0, 20),
    creative=st.booleans(),
    use_case=st.sampled_from(["similarity", "semantic_analysis"]),
    prompt_bytes=st.sampled_from([0, 7_000, 120_000, 1_000_000]),
    answer_tokens=st.sampled_from([0, 1000, 2500, 20_000]),
    user_id=st.none() | st.text(max_size=5),
    strategy=st.none() | st.sampled_from(list(load_strategies())),
    requested_model=st.none() | st.sampled_from([*load_registry().models, "gpt41-mini", "nobody"]),
)
SHARES = SelectionSettings.model_validate({"model_split_test": "true"}).model_split_test


@given(facts=FACTS, tokens=st.integers(1, 1_000_000), split=st.booleans())
@bounded(max_examples=400, deadline=None)
def test_whatever_the_job_its_candidates_are_known_fit_and_differ_and_stay_the_same(
    facts: JobFacts, tokens: int, split: bool
) -> None:
    settings = SETTINGS.model_copy(update={"model_split_test": SHARES if split else ()})
    registry = load_registry()

    def run() -> Selection | str:
        try:
            return select(facts, settings, job_id="j", count=lambda _: min(tokens, 2 * facts.prompt_bytes + 700))
        except CannotSelect as refused:
            return str(refused)

    found = run()
    assert found == run()
    if isinstance(found, str):
        return
    kind = "embedding" if facts.kind == "embed" else "chat"
    names = [model.id for model in found.candidates]
    assert 0 < len(names) == len(set(names))
    assert not set(names) & {model.id for model, _ in found.passed_over}
    assert is_reason(found.reason)
    for model in found.candidates:
        assert registry.models[model.id] is model
        assert model.kind == kind
        most = min(tokens, 2 * facts.prompt_bytes + 700)
        sure = registry.provider_of(model).most_input(facts.prompt_bytes)
        assert min(most, sure) + facts.answer_tokens <= model.context
        assert facts.answer_tokens <= model.max_output


PRICES = st.integers(0, 100 * 10**9)
PLAIN = st.builds(Rates, PRICES, PRICES, PRICES, PRICES)
TOKENS = st.integers(0, 1_000_000)


@given(
    rates=st.builds(Rates, PRICES, PRICES, PRICES, PRICES, long=st.none() | PLAIN, long_above=TOKENS),
    parts=st.tuples(TOKENS, TOKENS, TOKENS),
    output=TOKENS,
    spare=st.tuples(TOKENS, TOKENS),
)
@bounded(max_examples=500, deadline=None)
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case_whatever_tier_it_ends_in(
    rates: Rates, parts: tuple[int, int, int], output: int, spare: tuple[int, int]
) -> None:
    plain, cached, written = parts
    usage = Usage(plain + cached + written, output, cached, written)
    assert rates.cost(usage) <= rates.worst_case(usage.input + spare[0], usage.output + spare[1])


def test_the_worst_case_is_of_the_dearest_tier_that_can_apply() -> None:
    long = Rates(5, 7, 5, 5)
    rates = Rates(3_000_000, 4_000_000, 3_000_000, 3_000_000, long, 100)
    assert rates.worst_case(100, 10) == 100 * 3 + 10 * 4
    assert rates.worst_case(101, 10) == 101 * 3 + 10 * 4, "a cheaper long tier may not apply: the call may be shorter"
    dear = Rates(3, 4, 3, 3, Rates(6_000_000, 8_000_000, 6_000_000, 6_000_000), 100)
    assert dear.worst_case(101, 10) == 101 * 6 + 10 * 8
    assert dear.worst_case(100, 10) == 1
