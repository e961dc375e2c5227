"""The models: what each is called, costs and can hold. Data in `models.toml`, checked when it is loaded."""

import tomllib
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from budget.money import MAX_NANO, NANO_PER_USD, Rates
from db.once import once_per_process

ModelKind = Literal["chat", "embedding"]


class RegistryError(ValueError):
    """The registry file cannot be used; the message names file, model and field."""


class UnknownModel(ValueError):
    """A model was named that the registry does not have, or that is of the wrong kind."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Data):
    """USD per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    cache_write: Decimal | None = Field(default=None, ge=0)

    @property
    def rates(self) -> Rates:
        def nano(price: Decimal | None) -> int:
            return int((self.input if price is None else price) * NANO_PER_USD)

        return Rates(nano(self.input), nano(self.output), nano(self.cached_input), nano(self.cache_write))


class Provider(_Data):
    """Where a provider's key and address come from, and how its input tokens are bounded from above:
    counted tokens x `input_margin` + `input_overhead`."""

    api_key_env: str
    api_base_env: str
    input_margin: float = Field(ge=1)
    input_overhead: int = Field(ge=0)


class Model(_Data):
    """One model. Sizes in tokens; `json_by` says how it is made to answer in JSON."""

    id: str
    provider: str
    litellm: str
    kind: ModelKind
    price: Price
    context: int = Field(gt=0)
    max_output: int = Field(ge=0)
    tokenizer: Literal["o200k_base", "cl100k_base"]
    json_by: Literal["schema", "tool", "object", "prompt"] = "prompt"
    dimensions: int | None = Field(default=None, gt=0)
    premium: bool = False
    offered: bool = True
    aliases: tuple[str, ...] = ()
    strengths: tuple[str, ...] = ()
    best_for: tuple[str, ...] = ()

    @property
    def wire_name(self) -> str:
        """The name (for Azure: the deployment) that the provider sees."""
        return self.litellm.partition("/")[2] or self.litellm

    @cached_property
    def rates(self) -> Rates:
        return self.price.rates


class Registry(_Data):
    """All models by id, and their providers by name."""

    providers: dict[str, Provider]
    models: dict[str, Model]

    @cached_property
    def _ids(self) -> dict[str, str]:
        return {alias: model.id for model in self.models.values() for alias in model.aliases}

    def resolve(self, name: str, kind: ModelKind) -> Model:
        """The model of that id or alias; `UnknownModel` says which names there are."""
        model = self.models.get(self._ids.get(name, name))
        if model is not None and model.kind == kind:
            return model
        known = ", ".join(sorted(m.id for m in self.models.values() if m.kind == kind))
        shown = name[:60] if name.isprintable() else "the given name"
        trouble = f"is no {kind} model" if model else "is not in the model registry"
        raise UnknownModel(f"model: {shown!r} {trouble}; known {kind} models: {known}")

    def kind_of(self, name: str) -> ModelKind | None:
        """The kind of the model of that id or alias, None if there is no such model."""
        model = self.models.get(self._ids.get(name, name))
        return model.kind if model else None

    def provider_of(self, model: Model) -> Provider:
        return self.providers[model.provider]

    def offered(self, kind: ModelKind) -> list[Model]:
        return [m for m in self.models.values() if m.kind == kind and m.offered]


def parse_registry(text: str, source: str) -> Registry:
    """The registry of a TOML text; `RegistryError` names `source`, the model and the field."""
    try:
        data = tomllib.loads(text, parse_float=Decimal)
        models = data.get("models")
        for name, entry in models.items() if isinstance(models, dict) else ():
            if isinstance(entry, dict):
                entry["id"] = name
        registry = Registry.model_validate(data)
    except tomllib.TOMLDecodeError as error:
        raise RegistryError(f"{source}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RegistryError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = [name for model in registry.models.values() for name in (model.id, *model.aliases)]
    for model in registry.models.values():
        _check(model, registry, source)
        if twice := [alias for alias in model.aliases if names.count(alias) > 1]:
            raise RegistryError(f"{source}: models.{model.id}.aliases: {twice[0]!r} is another model's name too")
    return registry


def _check(model: Model, registry: Registry, source: str) -> None:
    if model.provider not in registry.providers:
        raise RegistryError(f"{source}: models.{model.id}.provider: {model.provider!r} is not under [providers]")
    for field in ("input", "output", "cached_input", "cache_write"):
        price = getattr(model.price, field)
        nano = (price or 0) * NANO_PER_USD
        if nano != int(nano) or nano > MAX_NANO:
            raise RegistryError(f"{source}: models.{model.id}.price.{field}: more than nine decimals, or too large")
    if model.kind == "embedding" and model.dimensions is None:
        raise RegistryError(f"{source}: models.{model.id}.dimensions: an embedding model needs them")


@once_per_process
def load_registry() -> Registry:
    """The registry that ships with Paymaster, read once per process."""
    path = Path(__file__).with_name("models.toml")
    return parse_registry(path.read_text(), path.name)
