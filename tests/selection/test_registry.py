"""The data of models and strategies: what is shipped, and what a bad file is told."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from budget.money import MAX_NANO, Rates, Usage
from db.once import once_per_environment
from selection.data import DataError
from selection.registry import Registry, RegistryError, load_registry, parse_registry
from selection.strategies import SHIPPED, find_strategy, load_strategies, parse_strategies

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
    (replaced("context = 1000", 'context = 1000\napi_base = "http://x"'), ["models.m-1.api_key_env", "server's key"]),
    (replaced("context = 1000", 'context = 1000\napi_base = "file:///x"'), ["models.m-1.api_base"]),
    (replaced("context = 1000", "context = 1000\ndeprecated = 5"), ["models.m-1.deprecated"]),
    (
        replaced("context = 1000", "context = 1000\nlong_context = { above = 1000, input = 1, output = 1 }"),
        ["models.m-1.long_context.above"],
    ),
    (
        replaced("context = 1000", "context = 1000\nlong_context = { above = 10, input = 1 }"),
        ["models.m-1.long_context.output", "required"],
    ),
    (
        replaced("context = 1000", "context = 1000\nlong_context = { above = 10, input = 1e-10, output = 1 }"),
        ["models.m-1.long_context.input", "nine decimals"],
    ),
    (replaced("max_output = 100", "max_output = 0"), ["models.m-1.max_output"]),
    (replaced('m-1"]', "m" * 101 + '"]'), ["id"]),
    (replaced('m-1"]', 'm\\n1"]'), ["id: must be printable"]),
    (replaced("context = 1000", 'context = 1000\naliases = ["a", "m-1"]'), ["models.m-1.aliases", "'m-1'"]),
    (replaced("context = 1000", 'context = 1000\naliases = ["a", "a"]'), ["models.m-1.aliases", "'a'"]),
    ('replace = "yes"\n' + PROVIDERS + MODEL, ["replace", "true or false"]),
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
        levels = {kind: {*ladder} for kind, ladder in strategy.models.items()}
        chat = {"low", "general", "high"}
        assert (levels["parse"], levels["generate"], levels["embed"]) == (chat, chat, {"standard", "semantic"})
        assert set(strategy.fallback) >= {"parse", "generate"}


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None) -> Path:
    """A file that MODEL_REGISTRY_FILE names."""
    path = tmp_path / "own.toml"
    monkeypatch.setenv("MODEL_REGISTRY_FILE", str(path))
    once_per_environment.forget_all()
    return path


def test_repricing_a_model_is_two_lines_and_leaves_all_else(own_file: Path) -> None:
    shipped = parse_registry(Path(SHIPPED).with_name("models.toml").read_text(), "x")
    own_file.write_text('[models."gpt-4o"]\nprice.input = 2.00\n')
    registry = load_registry()
    old, new = shipped.models["gpt-4o"], registry.models["gpt-4o"]
    assert (new.price.input, new.price.output, new.price.cached_input) == (2, 10, Decimal("1.25"))
    assert new == old.model_copy(update={"price": new.price})
    assert {name: model for name, model in registry.models.items() if name != "gpt-4o"} == {
        name: model for name, model in shipped.models.items() if name != "gpt-4o"
    }
    assert load_strategies()["balanced"].models["parse"]["general"] == "gpt-4o"


def test_a_new_model_of_a_new_provider_joins_the_shipped_ones(own_file: Path) -> None:
    own_file.write_text(PROVIDERS.replace("openai", "local") + MODEL.replace('"openai"', '"local"'))
    registry = load_registry()
    assert registry.resolve("m-1", "chat").provider == "local"
    assert registry.resolve("gpt4o-2", "chat").provider == "azure"


def test_a_file_may_replace_the_registry_and_then_holds_what_the_strategies_name(own_file: Path) -> None:
    own_file.write_text("replace = true\n" + PROVIDERS + MODEL)
    assert list(load_registry().models) == ["m-1"]
    with pytest.raises(
        DataError, match=r"^strategies.toml: strategies.cost_optimized.models.parse.low: model: 'gpt-4o-mini'"
    ):
        load_strategies()
    names = ["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-20250514", "claude-opus-4-1-20250805", "gpt-3.5-turbo", "gpt-4",
             "claude-3-haiku-20240307", "claude-3-sonnet-20240229"]  # fmt: skip
    vectors = MODEL.replace("m-1", "v").replace('"chat"', '"embedding"\ndimensions = 8')
    own_file.write_text(
        f"replace = true\n{PROVIDERS}{MODEL}aliases = {names}\n{vectors}"
        'aliases = ["text-embedding-3-small", "text-embedding-3-large"]\n'
    )
    once_per_environment.forget_all()
    assert set(load_strategies()) >= set(CAPS)
    assert load_registry().resolve("gpt-4o", "chat").id == "m-1"
    for strategy in load_strategies().values():
        ladders = {kind: {*ladder.values()} for kind, ladder in strategy.models.items()}
        assert ladders == {"parse": {"m-1"}, "generate": {"m-1"}, "embed": {"v"}}
        assert {*strategy.fallback.values()} == {"m-1"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[models."gpt-4o"]\nprice.input = -2\n', "own.toml: models.gpt-4o.price.input: "),
        ('[models."gpt-4o"]\nprize = 2\n', "own.toml: models.gpt-4o.prize: "),
        ('[models."gpt-4o"]\naliases = ["gpt41-mini"]\n', "own.toml: models.gpt-4o.aliases: 'gpt41-mini'"),
        ('[models."new"]\nprice.input = 2\n', "own.toml: models.new.provider: "),
        ("models = 5\n", "own.toml: models: "),
        ("[models\n", "own.toml: not valid TOML"),
        (None, "MODEL_REGISTRY_FILE: "),
    ],
)
def test_a_fault_of_an_own_file_names_it(own_file: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        own_file.write_text(text)
    with pytest.raises(RegistryError) as refused:
        load_registry()
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_own_file_must_be_text(own_file: Path) -> None:
    own_file.write_bytes(b"\xff\xfe")
    with pytest.raises(RegistryError, match="is not UTF-8 text"):
        load_registry()


def test_a_long_call_is_priced_by_its_own_prices_as_a_whole() -> None:
    text = replaced("context = 1000", "context = 1000\nlong_context = { above = 200, input = 5, output = 15 }")
    rates = parse_registry(text, "x").models["m-1"].rates
    assert rates.cost(Usage(200, 10)) == 200 * 2500 + 10 * 10_000
    assert rates.cost(Usage(201, 10)) == 201 * 5000 + 10 * 15_000
    assert rates.cost(Usage(201, 10, cached=201)) == 201 * 5000 + 10 * 15_000


@pytest.mark.parametrize(("day", "over"), [(date(2027, 1, 30), False), (date(2027, 1, 31), True), (None, False)])
def test_a_model_is_over_from_the_day_it_is_deprecated(day: date | None, over: bool) -> None:
    model = parse_registry(replaced("context = 1000", "context = 1000\ndeprecated = 2027-01-31"), "x").models["m-1"]
    assert model.over(day) == over


TEXT = SHIPPED.read_text()
BAD_STRATEGIES = [
    ("words_above = 1000", "words_above = 1001", "strategies.cost_optimized.rungs.parse.0.words_above"),
    ("words_below = 200", "words_under = 200", "strategies.cost_optimized.rungs.parse.1.words_under"),
    ('{ level = "general" },', '{ level = "general", words_above = 5 },', "the last rung takes all jobs"),
    ('level = "high", words', 'level = "higher", words', "strategies.cost_optimized.rungs.parse.0.level"),
    ("per_artifact = 5", "per_artifact = 500", "complexity.per_artifact"),
    ("success = 0.95\nquality", "success = 95\nquality", "strategies.experimental.goals.success"),
    ("max_usd_per_generation = 0.15", "max_usd_per_generation = 0", "strategies.balanced.max_usd_per_generation"),
    ('parse = { low = "gpt-4o-mini", general = "gpt-4o", ', 'parse = { low = "gpt-4o-mini", general = "gpt-9", ',
     "strategies.balanced.models.parse.general: model: 'gpt-9' is not"),
    ("[strategies.legacy]", '[strategies."Old times"]', "strategies.Old times.name"),
    ("[complexity]", "[complexity", "not valid TOML"),
    ('embed = "embedding"', 'embed = "chat"', "fallback: is not about the same kinds of job as `kinds`: embed"),
    ('embed = "embedding"\n', "", "models: is not about the same kinds of job as `kinds`: embed"),
    ('parse = "chat"', 'parse = "chat"\nsummarize = "chat"', "about the same kinds of job as `kinds`: summarize"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), BAD_STRATEGIES, ids=[words for _, _, words in BAD_STRATEGIES])
def test_bad_strategies_are_told_the_entry_and_the_field(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(DataError) as refused:
        parse_strategies(TEXT.replace(old, new, 1), "s.toml", load_registry())
    assert str(refused.value).startswith("s.toml: ")
    assert words in str(refused.value)


def test_a_strategy_may_have_rules_of_its_own() -> None:
    text = TEXT.replace(
        "[strategies.legacy]",
        """[strategies.legacy]
complexity = { words_above = 10, words = 100, per_artifact = 0, most_by_artifacts = 0, creative = 0 }""",
    )
    strategies = parse_strategies(text, "s.toml", load_registry())
    assert (strategies["legacy"].complexity.words_above, strategies["balanced"].complexity.words_above) == (10, 500)
