"""`paymaster models check`: the registry beside litellm's price map."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from cli.models import bundled_prices, check_models, compare
from selection.registry import load_registry, parse_registry

TODAY = date(2026, 11, 22)
REGISTRY = """
[providers.openai]
api_key_env = "K"
input_margin = 1
input_overhead = 0
[models."m"]
provider = "openai"
litellm = "openai/m"
kind = "chat"
tokenizer = "o200k_base"
price = { input = 2.50, output = 10, cached_input = 1.25 }
context = 300_000
max_output = 100
"""
ENTRY: dict[str, Any] = {
    "input_cost_per_token": Decimal("2.5e-06"), "output_cost_per_token": Decimal("1e-05"),
    "cache_read_input_token_cost": Decimal("1.25e-06"), "max_input_tokens": 300_000, "max_output_tokens": 100,
}  # fmt: skip
LONG = {"input_cost_per_token_above_200k_tokens": Decimal("5e-06"),
        "output_cost_per_token_above_200k_tokens": Decimal("2e-05")}  # fmt: skip


def found(text: str = REGISTRY, **prices: Any) -> list[tuple[Any, ...]]:
    entries = {"m": ENTRY, **prices}
    rows = compare(parse_registry(text, "x"), {name: entry for name, entry in entries.items() if entry}, TODAY)
    return [(row["finding"], row["field"], row["registry"], row["litellm"]) for row in rows]


def test_where_both_agree_there_is_nothing_to_look_at() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("told", "finding"),
    [
        ({"input_cost_per_token": Decimal("3e-06")}, ("differs", "price.input", "2.5", "3")),
        ({"output_cost_per_token": Decimal("1.1e-05")}, ("differs", "price.output", "10", "11")),
        ({"cache_read_input_token_cost": Decimal("1e-06")}, ("differs", "price.cached_input", "1.25", "1")),
        ({"cache_creation_input_token_cost": Decimal("3e-06")}, ("differs", "price.cache_write", None, "3")),
        ({"max_input_tokens": 200_000}, ("differs", "context", 300_000, 200_000)),
        ({"max_output_tokens": 99}, ("differs", "max_output", 100, 99)),
        (LONG, ("differs", "long_context.above", None, 200_000)),
        ({"deprecation_date": "2027-01-31"}, ("deprecated", "deprecated", None, date(2027, 1, 31))),
        ({"deprecation_date": "2026-11-22"}, ("switched off", "deprecated", None, date(2026, 11, 22))),
    ],
)
def test_what_differs_is_named_with_both_values(told: dict[str, Any], finding: tuple[Any, ...]) -> None:
    assert found(m={**ENTRY, **told}) == [finding]


@pytest.mark.parametrize("silent", ["cache_read_input_token_cost", "max_input_tokens", "max_output_tokens"])
def test_what_litellm_does_not_say_is_no_difference(silent: str) -> None:
    assert found(m={name: value for name, value in ENTRY.items() if name != silent}) == []


def test_a_tier_beyond_the_context_is_no_difference() -> None:
    far = {name.replace("200k", "300k"): value for name, value in LONG.items()}
    assert found(m={**ENTRY, **far}) == []


def test_long_context_prices_are_compared_tier_by_tier() -> None:
    tier = REGISTRY + "long_context = { above = 200_000, input = 5, output = 21 }\n"
    assert found(tier, m={**ENTRY, **LONG}) == [("differs", "long_context.output", "21", "20")]
    assert found(tier) == [("differs", "long_context.above", 200_000, None)]
    other = tier.replace("200_000, input", "100_000, input")
    assert ("differs", "long_context.above", 100_000, 200_000) in found(other, m={**ENTRY, **LONG})


def test_a_missing_model_and_an_own_date_are_named() -> None:
    assert found(m=None) == [("missing", "model", "openai/m", None)]
    assert found(REGISTRY + "deprecated = 2027-01-31\n") == [("deprecated", "deprecated", date(2027, 1, 31), None)]
    assert found(REGISTRY + "deprecated = 2026-01-31\n")[0][0] == "switched off"


def test_litellms_own_name_comes_before_the_bare_one_and_a_base_model_before_both() -> None:
    other = {**ENTRY, "max_output_tokens": 7}
    assert found(**{"openai/m": ENTRY, "m": other}) == []
    based = REGISTRY + 'base_model = "azure/m"\n'
    assert found(based, **{"azure/m": ENTRY, "openai/m": other}) == []
    assert found(based) == [("missing", "model", "azure/m", None)]


def test_a_server_of_our_own_is_nobodys_business() -> None:
    assert found(REGISTRY + 'api_base = "http://x"\napi_key_env = "Y"\n', m=None) == []


def test_the_shipped_prices_agree_with_litellms_and_the_claude_models_are_missing_there() -> None:
    rows = list(compare(load_registry(), bundled_prices(), TODAY))
    assert [row for row in rows if row["field"].startswith("price")] == []
    missing = {row["model"] for row in rows if row["finding"] == "missing"}
    assert missing >= {"claude-sonnet-4-20250514", "claude-opus-4-1-20250805"}
    assert "azure-gpt-4o" not in missing


@pytest.mark.parametrize("prices", [{}, None])
def test_the_status_is_1_if_there_is_something_to_look_at(
    prices: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.models.load_registry", lambda: parse_registry(REGISTRY, "x"))
    monkeypatch.setattr("cli.models.bundled_prices", lambda: {"m": ENTRY} if prices is None else prices)
    assert check_models(as_json=True) == (0 if prices is None else 1)
    told = json.loads(capsys.readouterr().out)
    assert told == ([] if prices is None else [
        {"model": "m", "finding": "missing", "field": "model", "registry": "openai/m", "litellm": None}
    ])  # fmt: skip
    assert check_models(as_json=False) == (0 if prices is None else 1)
    assert ("agree" if prices is None else "missing") in capsys.readouterr().out
