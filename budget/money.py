"""Money as integers of nano-USD (1 USD = 1,000,000,000), and what a call costs in them.

Floats never appear: prices and limits enter as `Decimal`, tokens are integers, and a call's cost is rounded
up once. Lua keeps integers exactly up to 2**53, so no amount above `MAX_NANO` is accepted anywhere.
"""

from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

NANO_PER_USD = 1_000_000_000
MAX_NANO = 2**53 - 1
TOKENS_PER_PRICE = 1_000_000

# by default Decimal rounds to 28 digits and says nothing
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])


class MoneyError(ValueError):
    """The amount is no exact number of nano-USD between 0 and 9,007,199.254740991 USD."""


def usd_to_nano(amount: Decimal | str | int) -> int:
    """Exact nano-USD of a USD amount; `MoneyError` if it is negative, too large or finer than a nano-USD."""
    try:
        nano = (_EXACT.multiply(Decimal(amount), Decimal(NANO_PER_USD))).to_integral_exact(context=_EXACT)
        within = 0 <= nano <= MAX_NANO
    except ArithmeticError:
        raise MoneyError(f"{amount!r} is no exact amount in USD with at most nine decimals") from None
    if not within:
        raise MoneyError(f"{amount} USD is not between 0 and 9007199.254740991")
    return int(nano)


def nano_to_usd(nano: int) -> Decimal:
    """USD of an amount in nano-USD, exact, with nine decimals."""
    return (Decimal(nano) / NANO_PER_USD).quantize(Decimal("0.000000001"))


def format_usd(nano: int) -> str:
    """`$0.0123` for people: at least two decimals, at most nine, no trailing zeros beyond the second."""
    text = f"{nano_to_usd(nano):,.9f}"
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them. `cached` and `cache_write` are parts of `input`,
    `reasoning` is a part of `output`."""

    input: int
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of one model in nano-USD per million tokens. A call with more than `long_above` input tokens is
    priced by `long` as a whole."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    long: "Rates | None" = None
    long_above: int = 0

    def cost(self, usage: Usage) -> int:
        """What `usage` costs, in nano-USD, rounded up once."""
        if self.long is not None and usage.input > self.long_above:
            return self.long.cost(usage)
        plain = usage.input - usage.cached - usage.cache_write
        return _round_up(
            plain * self.input
            + usage.cached * self.cached_input
            + usage.cache_write * self.cache_write
            + usage.output * self.output
        )

    def worst_case(self, input_tokens: int, max_output_tokens: int) -> int:
        """The most that a call can cost, in nano-USD: every input token at the dearest input price, of all prices
        that can apply."""
        dearest = max(self.input, self.cached_input, self.cache_write)
        worst = _round_up(input_tokens * dearest + max_output_tokens * self.output)
        if self.long is not None and input_tokens > self.long_above:
            return max(worst, self.long.worst_case(input_tokens, max_output_tokens))
        return worst


def _round_up(nano_times_million: int) -> int:
    return -(-nano_times_million // TOKENS_PER_PRICE)
