"""Money is exact: integers of nano-USD, checked against fractions."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.money import MAX_NANO, MoneyError, Rates, Usage, format_usd, nano_to_usd, usd_to_nano

AMOUNTS = st.integers(0, MAX_NANO)
TOKENS = st.integers(0, 20_000_000)
PRICES = st.integers(0, 200 * 10**9)


@pytest.mark.parametrize(
    ("amount", "nano"),
    [
        ("0", 0), ("-0", 0), (0, 0), ("0.000000001", 1), ("0.00000002", 20), ("1", 10**9), (50, 50 * 10**9),
        ("1.50", 1_500_000_000), ("1e3", 10**12), ("1E-9", 1), (Decimal("0.15"), 150_000_000),
        ("9007199.254740991", MAX_NANO), ("0.0000000010000", 1), (" 5 ", 5 * 10**9),
    ],
)  # fmt: skip
def test_an_amount_in_usd_is_its_nano_dollars(amount: Any, nano: int) -> None:
    found = usd_to_nano(amount)
    assert (found, type(found)) == (nano, int)


@pytest.mark.parametrize(
    "amount",
    ["9007199.254740992", "1e10", "-0.000000001", -1, "0.0000000001", "1.0000000005", "nan", "sNaN", "inf", "-inf",
     "abc", "", " ", "$5", "5 USD", "1,000", "0x10", "1e999999", "-1e999999", "1e-999999",
     # finer than a nano-dollar, behind more digits than Decimal works with by itself
     "1.00000000000000000000000000000000001", "0.99999999999999999999999999999999999"],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused(amount: Any) -> None:
    with pytest.raises(MoneyError):
        usd_to_nano(amount)


@given(AMOUNTS)
@settings(max_examples=200, deadline=None)
def test_nano_to_usd_and_back_is_the_same(nano: int) -> None:
    amount = nano_to_usd(nano)
    assert Fraction(amount) == Fraction(nano, 10**9)
    assert usd_to_nano(amount) == usd_to_nano(str(amount)) == nano


@given(st.decimals(min_value=0, max_value=9_007_199, places=12, allow_nan=False))
@settings(max_examples=200, deadline=None)
def test_an_amount_is_taken_exactly_or_not_at_all(amount: Decimal) -> None:
    exact = Fraction(amount) * 10**9
    if exact.denominator == 1:
        assert usd_to_nano(amount) == exact
    else:
        with pytest.raises(MoneyError):
            usd_to_nano(amount)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"), (1, "$0.000000001"), (20, "$0.00000002"), (10_000_000, "$0.01"), (12_300_000, "$0.0123"),
        (100_000_000, "$0.10"), (10**9, "$1.00"), (1_500_000_000, "$1.50"), (10**9 + 1, "$1.000000001"),
        (1234 * 10**9, "$1,234.00"), (10 * 10**9, "$10.00"), (MAX_NANO, "$9,007,199.254740991"),
    ],
)  # fmt: skip
def test_an_amount_for_people(nano: int, text: str) -> None:
    assert format_usd(nano) == text


@given(AMOUNTS)
@settings(max_examples=150, deadline=None)
def test_an_amount_for_people_loses_nothing(nano: int) -> None:
    text = format_usd(nano)
    assert usd_to_nano(text.removeprefix("$").replace(",", "")) == nano
    assert len(text.partition(".")[2]) >= 2


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, cache_write, plain = draw(TOKENS), draw(TOKENS), draw(TOKENS)
    output = draw(TOKENS)
    return Usage(plain + cached + cache_write, output, cached, cache_write, reasoning=draw(st.integers(0, output)))


RATES = st.builds(Rates, PRICES, PRICES, PRICES, PRICES)


@given(rates=RATES, usage=usages())
@settings(max_examples=300, deadline=None)
def test_a_cost_is_the_exact_sum_rounded_up_once(rates: Rates, usage: Usage) -> None:
    million = 1_000_000
    exact = (
        Fraction(usage.input - usage.cached - usage.cache_write, million) * rates.input
        + Fraction(usage.cached, million) * rates.cached_input
        + Fraction(usage.cache_write, million) * rates.cache_write
        + Fraction(usage.output, million) * rates.output
    )
    cost = rates.cost(usage)
    assert (cost, type(cost)) == (math.ceil(exact), int)


@given(rates=RATES, usage=usages(), spare_input=st.integers(0, 1000), spare_output=st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    rates: Rates, usage: Usage, spare_input: int, spare_output: int
) -> None:
    assert rates.cost(usage) <= rates.worst_case(usage.input + spare_input, usage.output + spare_output)


@given(rates=RATES, tokens=TOKENS, most=TOKENS)
@settings(max_examples=150, deadline=None)
def test_the_worst_case_is_reached_by_some_usage(rates: Rates, tokens: int, most: int) -> None:
    ways = (Usage(tokens, most), Usage(tokens, most, cached=tokens), Usage(tokens, most, cache_write=tokens))
    assert max(rates.cost(usage) for usage in ways) == rates.worst_case(tokens, most)


GPT_4O = Rates(2_500_000_000, 10_000_000_000, 1_250_000_000, 2_500_000_000)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (Usage(0), "0"),
        (Usage(1000, 500), "0.0075"),
        (Usage(1000, 500, cached=1000), "0.00625"),
        (Usage(1000, 500, cached=400), "0.007"),
        (Usage(1000, 500, reasoning=300), "0.0075"),
        (Usage(1), "0.0000025"),
    ],
)
def test_gpt_4o_costs_what_the_price_list_says(usage: Usage, usd: str) -> None:
    assert GPT_4O.cost(usage) == usd_to_nano(usd)


@pytest.mark.parametrize(("tokens", "nano"), [(0, 0), (1, 1), (99_999, 1), (100_000, 1), (100_001, 2)])
def test_a_part_of_a_nano_dollar_costs_a_whole_one(tokens: int, nano: int) -> None:
    assert Rates(10, 0, 10, 10).cost(Usage(tokens)) == nano


def test_a_part_of_a_nano_dollar_is_seen_behind_more_digits_than_a_float_has() -> None:
    tokens, price = 10_000_001, 100_000_000_001
    assert tokens * price % 10**6 == 1
    assert Rates(price, 0, price, price).cost(Usage(tokens)) == tokens * price // 10**6 + 1


def test_an_embedding_token_costs_twenty_nano_dollars() -> None:
    assert Rates(20_000_000, 0, 20_000_000, 20_000_000).cost(Usage(1)) == 20


def test_the_total_of_tokens_counts_every_token_once() -> None:
    assert Usage(10, 5, cached=4, cache_write=2, reasoning=3).total == 15
