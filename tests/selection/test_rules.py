"""SPEC 3's table and rules, cell by cell, and the edges of every threshold."""

import time

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from selection.rules import STRETCH_CHARS, JobFacts, count_words
from selection.select import select
from selection.settings import SelectionSettings
from selection.strategies import find_strategy

MINI, GPT = "gpt-4o-mini", "gpt-4o"
SONNET, OPUS = "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
STRATEGIES = ("cost_optimized", "balanced", "quality_optimized", "experimental")
PARSE = dict(zip(STRATEGIES, (MINI, GPT, SONNET, OPUS), strict=True))
COMPLEX = dict(zip(STRATEGIES, (SONNET, SONNET, OPUS, OPUS), strict=True))
EMBED = dict(zip(STRATEGIES, (SMALL, SMALL, LARGE, LARGE), strict=True))
QUALITY = ("quality_optimized", "experimental")


def score(facts: JobFacts) -> float:
    return find_strategy("balanced").complexity.score(facts)


@pytest.fixture(autouse=True)
def _no_model_of_an_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_MODEL_KEYWORDS", raising=False)


def chosen(strategy: str, kind: str, **facts: object) -> str:
    settings = SelectionSettings(model_selection_strategy=strategy, llm_model_default=MINI)
    return select(JobFacts(kind=kind, **facts), settings).candidates[0].id  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("words", [0, 1, 199])
def test_a_posting_under_200_words_is_parsed_by_the_small_model(strategy: str, words: int) -> None:
    assert chosen(strategy, "parse", words=words) == MINI


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("words", [200, 201, 500, 999, 1000])
def test_a_posting_of_200_to_1000_words_is_parsed_by_the_strategys_model(strategy: str, words: int) -> None:
    assert chosen(strategy, "parse", words=words) == PARSE[strategy]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("words", [1001, 1002, 10**6])
def test_a_posting_over_1000_words_is_parsed_by_sonnet(strategy: str, words: int) -> None:
    assert chosen(strategy, "parse", words=words) == SONNET


# words, artifacts, creative -> the complexity, and the model under (cost_optimized and balanced)
GENERATE = [
    (0, 0, False, 0.0, MINI),
    (500, 0, False, 0.0, MINI),
    (501, 0, False, 0.3, MINI),
    (501, 3, False, 0.45, MINI),
    (501, 4, False, 0.5, MINI),  # not over 0.5
    (501, 5, False, 0.55, GPT),
    (0, 4, True, 0.5, MINI),
    (0, 5, True, 0.55, GPT),
    (0, 10, False, 0.4, MINI),
    (0, 11, False, 0.4, SONNET),  # more than 10 artifacts, whatever the complexity
    (501, 8, False, 0.7, GPT),
    (501, 10, False, 0.7, GPT),
    (501, 0, True, 0.6, GPT),
    (501, 4, True, 0.8, GPT),  # not over 0.8
    (501, 5, True, 0.85, SONNET),
    (501, 8, True, 1.0, SONNET),
    (501, 200, True, 1.0, SONNET),
    (500, 8, True, 0.7, GPT),
]


@pytest.mark.parametrize("strategy", ["cost_optimized", "balanced"])
@pytest.mark.parametrize(("words", "artifacts", "creative", "_complexity", "model"), GENERATE)
def test_generate_climbs_the_ladder_by_complexity_and_artifacts(
    strategy: str, words: int, artifacts: int, creative: bool, _complexity: float, model: str
) -> None:
    assert chosen(strategy, "generate", words=words, artifacts=artifacts, creative=creative) == model


@pytest.mark.parametrize("strategy", QUALITY)
@pytest.mark.parametrize(("words", "artifacts", "creative", "_complexity", "_model"), GENERATE)
def test_quality_strategies_generate_with_opus_on_every_rung(
    strategy: str, words: int, artifacts: int, creative: bool, _complexity: float, _model: str
) -> None:
    assert chosen(strategy, "generate", words=words, artifacts=artifacts, creative=creative) == OPUS


@pytest.mark.parametrize(("words", "artifacts", "creative", "complexity", "_model"), GENERATE)
def test_complexity_is_the_sum_of_its_three_parts(
    words: int, artifacts: int, creative: bool, complexity: float, _model: str
) -> None:
    facts = JobFacts(kind="generate", words=words, artifacts=artifacts, creative=creative)
    assert score(facts) == complexity
    assert select(facts, SelectionSettings()).complexity == complexity


@given(words=st.integers(0, 3000), artifacts=st.integers(0, 500), creative=st.booleans())
@bounded(max_examples=80, deadline=None)
def test_complexity_stays_between_0_and_1_and_grows_with_the_artifacts(
    words: int, artifacts: int, creative: bool
) -> None:
    less = score(JobFacts("generate", words, artifacts, creative))
    more = score(JobFacts("generate", words, artifacts + 1, creative))
    assert 0 <= less <= more <= 1
    assert more - less == pytest.approx(0.05 if artifacts < 8 else 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("use_case", ["similarity", "search", "SEMANTIC_ANALYSIS"])
def test_an_ordinary_embed_job_uses_the_strategys_embedding_model(strategy: str, use_case: str) -> None:
    assert chosen(strategy, "embed", use_case=use_case) == EMBED[strategy]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("use_case", ["semantic_analysis", "complex_matching"])
def test_a_semantic_embed_job_uses_the_large_model(strategy: str, use_case: str) -> None:
    assert chosen(strategy, "embed", use_case=use_case) == LARGE


@pytest.mark.parametrize("facts", [{}, {"words": 600}, {"words": 5000, "artifacts": 50, "creative": True}])
@pytest.mark.parametrize(
    ("kind", "models"),
    [
        ("parse", ("gpt-3.5-turbo", "claude-3-haiku-20240307")),
        ("generate", ("gpt-4", "claude-3-sonnet-20240229")),
    ],
)
def test_legacy_runs_the_hardcoded_models_whatever_the_job(
    kind: str, models: tuple[str, str], facts: dict[str, int]
) -> None:
    found = select(JobFacts(kind=kind, **facts), SelectionSettings(model_selection_strategy="legacy"))  # type: ignore[arg-type]
    assert tuple(model.id for model in found.candidates[:2]) == models


@pytest.mark.parametrize(
    ("kind", "facts", "reason"),
    [
        ("parse", {"words": 10}, "balanced_strategy_low_complexity"),
        ("parse", {"words": 300}, "balanced_strategy_general_complexity"),
        ("parse", {"words": 1001}, "balanced_strategy_high_complexity"),
        ("generate", {"words": 501, "artifacts": 5}, "balanced_strategy_general_complexity"),
        ("embed", {}, "balanced_strategy_standard_use_case"),
        ("embed", {"use_case": "complex_matching"}, "balanced_strategy_semantic_use_case"),
    ],
)
def test_the_reason_names_strategy_and_level(kind: str, facts: dict[str, object], reason: str) -> None:
    assert select(JobFacts(kind=kind, **facts), SelectionSettings()).reason == reason  # type: ignore[arg-type]


def test_embedding_has_no_complexity() -> None:
    assert select(JobFacts(kind="embed"), SelectionSettings()).complexity is None


TEXTS = st.text(alphabet=st.sampled_from(" \t\n\u00a0\u2003abcü水.-"), max_size=60)


@given(start=TEXTS, filling=st.sampled_from(["w ", "w\n\n", " w\t"]), times=st.integers(0, 1100), end=TEXTS)
@bounded(max_examples=120, deadline=None)
def test_words_are_counted_exactly_up_to_1001(start: str, filling: str, times: int, end: str) -> None:
    text = start + filling * times + end
    exact, counted = len(text.split()), count_words(text)
    assert counted == exact or (counted > 1001 and exact > 1001)


@pytest.mark.parametrize("words", [0, 1, 199, 200, 500, 501, 1000, 1001])
@pytest.mark.parametrize("joint", [" ", "\n", " \n \t "])
def test_words_at_the_thresholds_are_counted_exactly(words: int, joint: str) -> None:
    assert count_words(joint.join(["word"] * words) + joint) == words


@pytest.mark.parametrize("words", [999, 1000, 1001])
def test_words_after_a_stretch_that_ends_on_the_threshold_are_counted_too(words: int) -> None:
    text = ("w " * words).ljust(2 * STRETCH_CHARS) + "and three more"
    assert count_words(text) == min(words + 3, 1001) or count_words(text) > 1001


def test_counting_stops_soon_after_1001_words() -> None:
    assert 1001 < count_words("w " * 50_000) < 1100


def test_selecting_takes_far_under_10_milliseconds() -> None:
    settings, facts = SelectionSettings(), JobFacts(kind="generate", words=600, artifacts=6)
    select(facts, settings)
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            select(facts, settings)
        rounds.append((time.perf_counter() - start) / 20)
    assert min(rounds) < 0.002
