"""The strategies: for each kind of job and level one model, a fallback and a cap. Data in `strategies.toml`."""

import tomllib
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from budget.money import usd_to_nano
from db.once import once_per_environment
from selection.data import Data, DataError, checked
from selection.errors import UnknownModel, UnknownStrategy
from selection.registry import ModelKind, Registry, load_registry
from selection.rules import Complexity, Level, Rungs

SHIPPED = Path(__file__).with_name("strategies.toml")
# a reason, which has the strategy's name in it, must fit its column
LONGEST_NAME = 32


class Goals(Data):
    """What a model's measured record should be."""

    success: float = Field(ge=0, le=1)
    quality: float = Field(ge=0, le=1)
    p95_ms: int = Field(gt=0)


class Strategy(Data):
    """One strategy. By kind of job: the kind of model that it runs on, the model id of each level, the model id to fall
    back to (of chat jobs), and the rungs."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", max_length=LONGEST_NAME)
    max_usd_per_generation: Decimal = Field(gt=0)
    kinds: dict[str, ModelKind]
    models: dict[str, dict[Level, str]]
    fallback: dict[str, str]
    complexity: Complexity
    rungs: dict[str, Rungs]
    goals: Goals
    offered: bool = True

    @model_validator(mode="after")
    def _every_kind_is_everywhere(self) -> Self:
        chat = {kind for kind, model in self.kinds.items() if model == "chat"}
        for field, kinds in (("models", {*self.kinds}), ("rungs", {*self.kinds}), ("fallback", chat)):
            if odd := kinds ^ {*getattr(self, field)}:
                raise ValueError(f"{field}: is not about the same kinds of job as `kinds`: {', '.join(sorted(odd))}")
        return self

    @cached_property
    def job_cap(self) -> int:
        """The most that all attempts of one parse or generate job may cost together, in nano-USD."""
        return usd_to_nano(self.max_usd_per_generation)


Strategies = dict[str, Strategy]


def parse_strategies(text: str, source: str, registry: Registry) -> Strategies:
    """The strategies of a TOML text, by name; `DataError` names `source`, the strategy and the field."""
    try:
        data: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{source}: not valid TOML: {error}") from None
    shared = {name: data[name] for name in ("kinds", "complexity", "rungs", "goals") if name in data}
    strategies = {
        name: checked(Strategy, {**shared, "name": name, **entry}, source, "strategies", name)
        for name, entry in data.get("strategies", {}).items()
    }
    return {name: _with_ids(strategy, source, registry) for name, strategy in strategies.items()}


def _with_ids(strategy: Strategy, source: str, registry: Registry) -> Strategy:
    """The strategy with every model by its id; `DataError` names the field of one that the registry does not have."""

    def resolved(field: str, names: dict[Any, str], kind: ModelKind) -> dict[Any, str]:
        found = {}
        for key, name in names.items():
            try:
                found[key] = registry.resolve(name, kind).id
            except UnknownModel as error:
                raise DataError(f"{source}: strategies.{strategy.name}.{field}.{key}: {error}") from None
        return found

    models = {kind: resolved(f"models.{kind}", found, strategy.kinds[kind]) for kind, found in strategy.models.items()}
    return strategy.model_copy(update={"models": models, "fallback": resolved("fallback", strategy.fallback, "chat")})


@once_per_environment
def load_strategies() -> Strategies:
    """The strategies that ship with Paymaster, by name, read once per process."""
    return parse_strategies(SHIPPED.read_text(encoding="utf-8"), SHIPPED.name, load_registry())


def model_kind(kind: str) -> ModelKind:
    """The kind of model that a kind of job runs on."""
    return next(iter(load_strategies().values())).kinds[kind]


def offered(strategies: Strategies | None = None) -> list[str]:
    """The names to choose from. The others are there to compare with, for who knows their names."""
    return [strategy.name for strategy in (strategies or load_strategies()).values() if strategy.offered]


def find_strategy(name: str, strategies: Strategies | None = None) -> Strategy:
    """The strategy of that name; `UnknownStrategy` lists those that are offered."""
    strategies = strategies or load_strategies()
    if name not in strategies:
        shown = name[:60] if name.isprintable() else "the given name"
        raise UnknownStrategy(f"strategy: {shown!r} is unknown; known: {', '.join(offered(strategies))}")
    return strategies[name]
