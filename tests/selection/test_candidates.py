"""The chain of candidates: which models are tried after the first, in which order."""

import itertools

import pytest

from selection.registry import load_registry
from selection.rules import JobFacts
from selection.select import select
from selection.settings import SelectionSettings
from selection.strategies import load_strategies

MINI, GPT = "gpt-4o-mini", "gpt-4o"
SONNET, OPUS = "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
SETTINGS = SelectionSettings(enable_llm_model_override=True, enable_llm_model_header=False)


def chain(kind: str, strategy: str, **facts: object) -> list[str]:
    found = select(JobFacts(kind=kind, strategy=strategy, **facts), SETTINGS)  # type: ignore[arg-type]
    return [model.id for model in found.candidates]


CHAINS = [
    ("parse", "cost_optimized", {"words": 300}, [MINI, SONNET, GPT]),
    ("parse", "balanced", {"words": 300}, [GPT, SONNET, MINI]),
    ("parse", "balanced", {"words": 10}, [MINI, SONNET, GPT]),
    ("parse", "balanced", {"words": 1001}, [SONNET, MINI, GPT]),
    ("parse", "quality_optimized", {"words": 300}, [SONNET, MINI, GPT]),
    ("parse", "experimental", {"words": 300}, [OPUS, GPT, MINI, SONNET]),
    ("parse", "experimental", {"words": 10}, [MINI, GPT, SONNET, OPUS]),
    ("generate", "cost_optimized", {"words": 501, "artifacts": 5}, [GPT, MINI, SONNET]),
    ("generate", "cost_optimized", {}, [MINI, SONNET, GPT]),
    ("generate", "balanced", {"artifacts": 11}, [SONNET, MINI, GPT]),
    ("generate", "quality_optimized", {}, [OPUS, SONNET, MINI, GPT]),
    ("generate", "experimental", {}, [OPUS, GPT, MINI, SONNET]),
    ("parse", "legacy", {}, ["gpt-3.5-turbo", "claude-3-haiku-20240307", SONNET, MINI, GPT]),
    ("generate", "legacy", {}, ["gpt-4", "claude-3-sonnet-20240229", SONNET, MINI, GPT]),
]


@pytest.mark.parametrize(("kind", "strategy", "facts", "models"), CHAINS)
def test_the_chain_is_chosen_then_fallback_then_other_providers_then_the_cheaper(
    kind: str, strategy: str, facts: dict[str, object], models: list[str]
) -> None:
    assert chain(kind, strategy, **facts) == models


EVERY = list(itertools.product(("parse", "generate"), load_strategies(), (0, 300, 501, 1001), (0, 6, 11)))


def test_no_model_is_tried_twice() -> None:
    for kind, strategy, words, artifacts in EVERY:
        for requested in (None, GPT, SONNET, "gpt4o-2"):
            found = chain(kind, strategy, words=words, artifacts=artifacts, requested_model=requested)
            assert len(found) == len(set(found)) >= 3


def test_the_strategys_fallback_is_second_unless_it_is_first_itself() -> None:
    for kind, strategy, words, artifacts in EVERY:
        found = chain(kind, strategy, words=words, artifacts=artifacts)
        fallback = load_strategies()[strategy].fallback[kind]
        assert fallback in (found[:1] if found[0] == fallback else found[1:2])


def test_after_the_fallback_the_other_provider_comes_first() -> None:
    registry = load_registry()
    for kind, strategy, words, artifacts in EVERY:
        found = [registry.models[model] for model in chain(kind, strategy, words=words, artifacts=artifacts)]
        rest = found[1:] if found[0].id == load_strategies()[strategy].fallback[kind] else found[2:]
        same_provider = [model.provider == found[0].provider for model in rest]
        assert same_provider == sorted(same_provider)


def test_premium_models_are_tried_only_where_the_strategy_uses_them() -> None:
    for kind, strategy, words, artifacts in EVERY:
        uses_premium = OPUS in load_strategies()[strategy].models[kind].values()
        assert (OPUS in chain(kind, strategy, words=words, artifacts=artifacts)) == uses_premium


def test_a_requested_premium_model_is_first_and_brings_no_other_premium_one() -> None:
    assert chain("generate", "balanced", requested_model=OPUS) == [OPUS, SONNET, MINI, GPT]


def test_models_that_are_not_offered_are_no_fallback() -> None:
    registry = load_registry()
    for kind, strategy, words, artifacts in EVERY:
        found = chain(kind, strategy, words=words, artifacts=artifacts, requested_model="gpt4o-2")
        assert [model for model in found[2:] if not registry.models[model].offered] == []


@pytest.mark.parametrize("strategy", ["cost_optimized", "balanced", "quality_optimized", "experimental", "legacy"])
@pytest.mark.parametrize("use_case", ["similarity", "semantic_analysis"])
def test_embed_has_no_fallback(strategy: str, use_case: str) -> None:
    assert len(chain("embed", strategy, use_case=use_case)) == 1
