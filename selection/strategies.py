"""The strategies: for each kind of job and level one model, a fallback and a cap. Data in `strategies.toml`."""

import tomllib
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from budget.money import usd_to_nano
from db.once import once_per_process
from selection.registry import load_registry


class UnknownStrategy(ValueError):
    """A strategy was named that there is not."""


class Strategy(BaseModel):
    """One strategy. `parse`, `generate` and `embed` map a level to a model id, `fallback` a kind of job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    max_usd_per_generation: Decimal = Field(gt=0)
    parse: dict[str, str]
    generate: dict[str, str]
    embed: dict[str, str]
    fallback: dict[str, str]
    offered: bool = True

    def ladder(self, kind: str) -> dict[str, str]:
        """Level -> model id, for one kind of job."""
        ladders: dict[str, dict[str, str]] = {"parse": self.parse, "generate": self.generate, "embed": self.embed}
        return ladders[kind]

    @property
    def job_cap(self) -> int:
        """The most that all attempts of one parse or generate job may cost together, in nano-USD."""
        return usd_to_nano(self.max_usd_per_generation)


@once_per_process
def load_strategies() -> dict[str, Strategy]:
    """The strategies that ship with Paymaster, by name, read once per process."""
    data = tomllib.loads(Path(__file__).with_name("strategies.toml").read_text(), parse_float=Decimal)
    strategies = {name: Strategy(name=name, **entry) for name, entry in data["strategies"].items()}
    registry = load_registry()
    for strategy in strategies.values():
        for kind, model_kind in (("parse", "chat"), ("generate", "chat"), ("embed", "embedding")):
            for model in strategy.ladder(kind).values():
                registry.resolve(model, model_kind)  # type: ignore[arg-type]  # the table above is ModelKind
        for model in strategy.fallback.values():
            registry.resolve(model, "chat")
    return strategies


def find_strategy(name: str) -> Strategy:
    """The strategy of that name; `UnknownStrategy` lists the names there are."""
    strategies = load_strategies()
    if name not in strategies:
        shown = name[:60] if name.isprintable() else "the given name"
        raise UnknownStrategy(f"strategy: {shown!r} is unknown; known: {', '.join(strategies)}")
    return strategies[name]
