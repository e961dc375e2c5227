"""The data of models and strategies: what is shipped, and what a bad file is told."""

from decimal import Decimal

import pytest

from budget.money import MAX_NANO, Rates
from selection.registry import Registry, RegistryError, load_registry, parse_registry
from selection.strategies import find_strategy, load_strategies

PROVIDERS = """
[providers.openai]
api_key_env = "OPENAI_API_KEY"
api_base_env = "OPENAI_API_BASE"
input_margin = 1.1
input_overhead = 64
"""
MODEL = """
[models."m-1"]
provider = "openai"
litellm = "openai/m-1"
kind = "chat"
tokenizer = "o200k_base"
price = { input = 2.50, output = 10 }
context = 1000
max_output = 100
"""

# USD per million tokens, input and output, by SPEC 2
PRICES = {
    "gpt-4o": ("2.50", "10"),
    "gpt-4o-mini": ("0.15", "0.60"),
    "claude-sonnet-4-20250514": ("3", "15"),
    "claude-opus-4-1-20250805": ("15", "75"),
    "text-embedding-3-small": ("0.02", "0"),
    "text-embedding-3-large": ("0.13", "0"),
    "gpt-3.5-turbo": ("0.50", "1.50"),
    "gpt-4": ("30", "60"),
    "claude-3-haiku-20240307": ("0.25", "1.25"),
    "claude-3-sonnet-20240229": ("3", "15"),
    "gpt-4.1-mini": ("0.40", "1.60"),
}


def replaced(old: str, new: str) -> str:
    assert old in MODEL
    return PROVIDERS + MODEL.replace(old, new)


@pytest.mark.parametrize(("model", "prices"), PRICES.items())
def test_the_shipped_prices_are_the_customers(model: str, prices: tuple[str, str]) -> None:
    price = load_registry().models[model].price
    assert (price.input, price.output) == (Decimal(prices[0]), Decimal(prices[1]))


@pytest.mark.parametrize(
    ("model", "provider", "size"),
    [
        ("gpt-4o", "openai", 128_000),
        ("gpt-4o-mini", "openai", 128_000),
        ("claude-sonnet-4-20250514", "anthropic", 200_000),
        ("claude-opus-4-1-20250805", "anthropic", 200_000),
        ("text-embedding-3-small", "openai", 1536),
        ("text-embedding-3-large", "openai", 3072),
    ],
)
def test_the_shipped_sizes_and_providers_are_the_customers(model: str, provider: str, size: int) -> None:
    found = load_registry().models[model]
    assert (found.provider, found.dimensions or found.context) == (provider, size)


def test_exactly_the_models_of_the_settings_page_are_offered() -> None:
    registry = load_registry()
    assert [m.id for m in registry.offered("chat")] == [
        "gpt-4o", "gpt-4o-mini", "claude-sonnet-4-20250514", "claude-opus-4-1-20250805",
    ]  # fmt: skip
    assert [m.id for m in registry.offered("embedding")] == ["text-embedding-3-small", "text-embedding-3-large"]


def test_an_azure_model_maps_to_its_deployment() -> None:
    model = load_registry().resolve("gpt4o-2", "chat")
    assert (model.provider, model.wire_name) == ("azure", "gpt4o-2")
    assert load_registry().resolve("gpt41-mini", "chat").wire_name == "gpt-4.1-mini"


def test_a_good_file_is_read_and_unstated_cache_prices_are_the_input_price() -> None:
    registry = parse_registry(PROVIDERS + MODEL, "x.toml")
    assert isinstance(registry, Registry)
    assert registry.models["m-1"].rates == Rates(2_500_000_000, 10_000_000_000, 2_500_000_000, 2_500_000_000)


def test_prices_are_exact_to_the_nano_dollar() -> None:
    text = replaced("input = 2.50", "input = 0.000000001, cached_input = 0.1, cache_write = 0.3")
    assert parse_registry(text, "x").models["m-1"].rates == Rates(1, 10_000_000_000, 100_000_000, 300_000_000)


FAULTS = [
    (replaced("kind =", "kin ="), ["models.m-1.kin"]),
    (replaced('kind = "chat"', 'kind = "video"'), ["models.m-1.kind"]),
    (replaced('kind = "chat"\n', ""), ["models.m-1.kind", "required"]),
    (replaced("price = { input = 2.50, output = 10 }\n", ""), ["models.m-1.price", "required"]),
    (replaced("output = 10 }", "}").replace("2.50, ", "2.50 "), ["models.m-1.price.output", "required"]),
    (replaced("input = 2.50", "input = -1"), ["models.m-1.price.input"]),
    (replaced("input = 2.50", "input = nan"), ["models.m-1.price.input"]),
    (replaced("input = 2.50", "input = inf"), ["models.m-1.price.input"]),
    (replaced("input = 2.50", "input = 0.0000000001"), ["models.m-1.price.input", "nine decimals"]),
    (replaced("output = 10 ", f"output = {MAX_NANO} "), ["models.m-1.price.output", "too large"]),
    (replaced("output = 10 ", "output = 10, cached_input = 0.0000000001 "), ["models.m-1.price.cached_input"]),
    (replaced("output = 10 ", "output = 10, cache_write = 0.0000000001 "), ["models.m-1.price.cache_write"]),
    (replaced("output = 10 ", "output = 10, reasonin = 1 "), ["models.m-1.price.reasonin"]),
    (replaced("context = 1000", "context = 0"), ["models.m-1.context"]),
    (replaced("context = 1000", 'context = "many"'), ["models.m-1.context"]),
    (replaced("max_output = 100", "max_output = -1"), ["models.m-1.max_output"]),
    (replaced("o200k_base", "p50k_base"), ["models.m-1.tokenizer"]),
    (replaced('provider = "openai"', 'provider = "nobody"'), ["models.m-1.provider", "nobody"]),
    (replaced('kind = "chat"', 'kind = "embedding"'), ["models.m-1.dimensions"]),
    (replaced("context = 1000", "context = 1000\ndimensions = 0"), ["models.m-1.dimensions"]),
    (PROVIDERS.replace("1.1", "0.9") + MODEL, ["providers.openai.input_margin"]),
    (PROVIDERS.replace("64", "-1") + MODEL, ["providers.openai.input_overhead"]),
    ("models = oops\n", ["not valid TOML", "line 1"]),
    (MODEL, ["providers", "required"]),
    (PROVIDERS + '[models]\n"m-1" = "text"\n', ["models.m-1"]),
    ("models = 5\n" + PROVIDERS, ["models"]),
]


@pytest.mark.parametrize(("text", "words"), FAULTS, ids=[" ".join(words) for _, words in FAULTS])
def test_a_bad_file_is_told_its_name_the_model_and_the_field(text: str, words: list[str]) -> None:
    with pytest.raises(RegistryError) as refused:
        parse_registry(text, "my-models.toml")
    sentence = str(refused.value)
    assert sentence.startswith("my-models.toml: ")
    for word in words:
        assert word in sentence


CAPS = {"cost_optimized": "0.05", "balanced": "0.15", "quality_optimized": "0.50", "experimental": "1.00"}


@pytest.mark.parametrize(("name", "usd"), CAPS.items())
def test_a_strategys_cap_is_the_customers(name: str, usd: str) -> None:
    assert find_strategy(name).job_cap == int(Decimal(usd) * 10**9)


def test_the_strategies_load_and_legacy_is_not_offered() -> None:
    strategies = load_strategies()
    assert [name for name, strategy in strategies.items() if strategy.offered] == list(CAPS)
    assert "legacy" in strategies
    for name, strategy in strategies.items():
        assert strategy.name == name
        assert set(strategy.parse) == set(strategy.generate) == {"low", "general", "high"}
        assert set(strategy.embed) == {"standard", "semantic"}
        assert set(strategy.fallback) == {"parse", "generate"}
