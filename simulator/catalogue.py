"""What is on sale: the registry's models as the simulator serves and bills them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

Family = Literal["openai", "anthropic"]
Kind = Literal["chat", "embedding"]

# USD per million tokens -> nano-USD per token: 10^9 / 10^6.
NANO_PER_TOKEN = 1000

# Claude's tokenizer is not public. cl100k_base times this factor, rounded up, stands in for it.
CLAUDE_FACTOR = Fraction(6, 5)


@dataclass(frozen=True, slots=True)
class Served:
    """One model. Prices are exact, in nano-USD per token; lengths are in tokens, None where unknown."""

    id: str
    wire_name: str
    family: Family
    kind: Kind
    input_nano: Fraction
    output_nano: Fraction
    cached_nano: Fraction
    encoding: str
    token_factor: Fraction
    context: int | None
    max_output: int | None
    dimensions: int | None

    def tokens(self, encoded: int) -> int:
        """Tokens the provider counts for `encoded` tokens of the encoding, rounded up."""
        return -(-encoded * self.token_factor.numerator // self.token_factor.denominator)

    def encoded(self, tokens: int) -> int:
        """The most tokens of the encoding that the provider counts as at most `tokens`."""
        return tokens * self.token_factor.denominator // self.token_factor.numerator

    def cost_nano(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """What a request costs in nano-USD, rounded up once. Cached tokens are part of the input."""
        exact = (
            (input_tokens - cached_tokens) * self.input_nano
            + cached_tokens * self.cached_nano
            + output_tokens * self.output_nano
        )
        return -(-exact.numerator // exact.denominator)


def served(
    id: str,
    *,
    wire_name: str | None = None,
    provider: str = "openai",
    kind: Kind = "chat",
    input: Decimal | str,
    output: Decimal | str = "0",
    cached_input: Decimal | str | None = None,
    tokenizer: str = "cl100k_base",
    context: int | None = None,
    max_output: int | None = None,
    dimensions: int | None = None,
) -> Served:
    """A model from prices in USD per million tokens. All but Anthropic are played as OpenAI."""
    claude = provider == "anthropic"
    price = Fraction(input) * NANO_PER_TOKEN
    return Served(
        id=id,
        wire_name=wire_name or id,
        family="anthropic" if claude else "openai",
        kind=kind,
        input_nano=price,
        output_nano=Fraction(output) * NANO_PER_TOKEN,
        cached_nano=price if cached_input is None else Fraction(cached_input) * NANO_PER_TOKEN,
        encoding="cl100k_base" if claude else tokenizer,
        token_factor=CLAUDE_FACTOR if claude else Fraction(1),
        context=context,
        max_output=max_output,
        dimensions=dimensions,
    )


class Catalogue:
    """The models by the names that a request may use: the wire name first, then the registry's id."""

    def __init__(self, models: Iterable[Served]) -> None:
        self.models = tuple(models)
        self._by_name: dict[str, Served] = {}
        for model in self.models:
            self._by_name.setdefault(model.wire_name, model)
        for model in self.models:
            self._by_name.setdefault(model.id, model)

    def find(self, name: object, family: Family, kind: Kind) -> Served | None:
        """The model of that name, if that provider sells it on that route."""
        model = self._by_name.get(name) if isinstance(name, str) else None
        return model if model and (model.family, model.kind) == (family, kind) else None


def from_registry() -> Catalogue:
    """Everything in the project's model registry, with its prices."""
    from selection.registry import load_registry

    return Catalogue(
        served(
            model.id,
            wire_name=model.wire_name,
            provider=model.provider,
            kind=model.kind,
            input=model.price.input,
            output=model.price.output,
            cached_input=model.price.cached_input,
            tokenizer=model.tokenizer,
            context=model.context,
            max_output=model.max_output,
            dimensions=model.dimensions,
        )
        for model in load_registry().models.values()
    )
