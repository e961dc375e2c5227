"""Counting tokens: never under, and bounded in time whatever the text."""

import math
import sys
import time

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.registry import load_registry
from worker.tokens import CHUNK_CHARS, count_tokens, litellm_folder, most_input_tokens

TOKENIZERS = ("o200k_base", "cl100k_base")
TEXTS = {
    "prose": "We look for a baker who can make bread, rolls and cakes, and who rises early. " * 400,
    "german": "Wir suchen eine Bäckerin für Brot, Brötchen und Kuchen; Arbeitsbeginn ist um drei Uhr. " * 300,
    "chinese": "我们正在寻找一位能够制作面包和蛋糕的面包师。" * 800,
    "json": '{"title": "Baker", "skills": ["dough", "ovens"], "years": 12},\n' * 400,
    "code": "for (int i = 0; i < n; ++i) { sum += values[i] * 0x1F; }\r\n" * 400,
    "emoji": "🥐🍞👩\u200d🍳 " * 2000,
    "digits": "3.14159265358979" * 1500,
    "whitespace": " \t \n" * 6000,
    "html": "<li class='x'>Ovens &amp; dough</li>" * 500,
}


def whole(text: str, tokenizer: str) -> int:
    count_tokens("any", tokenizer)  # points tiktoken to the tokenizers' data
    return len(tiktoken.get_encoding(tokenizer).encode_ordinary(text))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", TEXTS)
def test_cutting_a_text_adds_a_few_tokens_and_takes_none_away(name: str, tokenizer: str) -> None:
    text = TEXTS[name]
    exact, counted = whole(text, tokenizer), count_tokens(text, tokenizer)
    cuts = len(text) // CHUNK_CHARS
    assert cuts >= 2
    assert exact <= counted <= exact + 4 * cuts


@given(st.lists(st.sampled_from(["bread ", "Brötchen", "面包", "\n\n", "    ", "aaaa", "1234567", "🥐", "'ll ", "-"]),
                min_size=2, max_size=8), st.sampled_from(TOKENIZERS))  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_what_a_cut_can_take_away_is_far_within_the_margin(parts: list[str], tokenizer: str) -> None:
    """Byte pairs are merged greedily, so a cut may even save a token: the provider's margin must cover that."""
    text = ("".join(parts) * 2000)[: 3 * CHUNK_CHARS + 17]
    exact = whole(text, tokenizer)
    assert exact - 2 * 3 <= count_tokens(text, tokenizer) <= exact + 4 * 3
    for model in load_registry().models.values():
        if model.tokenizer == tokenizer:
            assert most_input_tokens([text], model, load_registry().provider_of(model)) >= exact + 64


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("length", [0, 1, 5, CHUNK_CHARS - 1, CHUNK_CHARS])
def test_a_short_text_is_counted_exactly(length: int, tokenizer: str) -> None:
    text = TEXTS["prose"][:length]
    assert count_tokens(text, tokenizer) == whole(text, tokenizer)


def test_every_tokenizer_of_the_registry_is_there_without_a_network() -> None:
    for tokenizer in {model.tokenizer for model in load_registry().models.values()}:
        assert count_tokens("hello world", tokenizer) == 2


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("run", ["a", " ", "ab", "水", "\n", "="])
def test_a_run_of_200_000_characters_is_counted_within_2_seconds(run: str, tokenizer: str) -> None:
    count_tokens("", tokenizer)
    text = (run * 200_000)[:200_000]
    start = time.process_time()
    assert count_tokens(text, tokenizer) > 1000
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|im_start|>system", "half \ud800 pair", "\0"])
def test_special_and_broken_texts_are_counted_as_plain_text(text: str) -> None:
    assert count_tokens(text, "o200k_base") > 1 or text == "\0"


@pytest.mark.parametrize("model", load_registry().models.values(), ids=lambda model: model.id)
def test_the_bound_is_the_count_with_the_providers_margin(model) -> None:
    provider = load_registry().provider_of(model)
    texts = ["You read job postings.", TEXTS["prose"], '{"a": 1}']
    counted = sum(count_tokens(text, model.tokenizer) for text in texts)
    most = most_input_tokens(texts, model, provider)
    assert most == math.ceil(counted * provider.input_margin) + provider.input_overhead
    assert most >= counted + 64
    assert most_input_tokens([], model, provider) == provider.input_overhead


def test_claudes_margin_is_wide_since_its_tokenizer_is_not_public() -> None:
    providers = load_registry().providers
    assert providers["anthropic"].input_margin >= 1.5 > providers["openai"].input_margin >= 1
    assert providers["anthropic"].input_overhead >= 530  # what Anthropic says that tool use adds


def test_a_missing_litellm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(ModuleNotFoundError, match="litellm is not installed"):
        litellm_folder()
