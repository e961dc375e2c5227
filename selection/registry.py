"""The models: what each is called, costs and can hold. Data in `models.toml`, which `MODEL_REGISTRY_FILE` extends or
replaces; checked when it is loaded."""

import tomllib
from datetime import date
from decimal import Decimal
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from budget.money import MAX_NANO, NANO_PER_USD, Rates
from db.environment import read_settings
from db.once import once_per_environment
from selection.data import Data, DataError, checked
from selection.errors import UnknownModel
from selection.settings import SelectionSettings

ModelKind = Literal["chat", "embedding"]
SHIPPED = Path(__file__).with_name("models.toml")
# what SQL keeps of a name, and what a job may name
LONGEST_NAME = 100
LONGEST_PROVIDER = 32
HEADER = "X-LLM-Model"


class RegistryError(DataError):
    """The registry file cannot be used; the message names file, model and field."""


def _exact(price: Decimal) -> Decimal:
    nano = price * NANO_PER_USD
    if nano != int(nano) or nano > MAX_NANO:
        raise ValueError("has more than nine decimals, or is too large")
    return price


Usd = Annotated[Decimal, Field(ge=0), AfterValidator(_exact)]


class Price(Data):
    """USD per million tokens. A cache price that is not given is the input price."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None
    cache_write: Usd | None = None

    def rates(self, long: Rates | None = None, long_above: int = 0) -> Rates:
        def nano(price: Decimal | None) -> int:
            return int((self.input if price is None else price) * NANO_PER_USD)

        return Rates(
            nano(self.input), nano(self.output), nano(self.cached_input), nano(self.cache_write), long, long_above
        )


class LongContext(Price):
    """The prices of a whole call with more than `above` input tokens."""

    above: int = Field(gt=0)


class Provider(Data):
    """Where a provider's key and address come from, how its input tokens are bounded from above (counted tokens x
    `input_margin` + `input_overhead`), and how much it takes in one embeddings request. `api_base_required` is
    for providers of which everybody has an address of their own."""

    api_key_env: str = Field(min_length=1)
    api_base_env: str | None = None
    api_base_required: bool = False
    api_version: str | None = None
    input_margin: float = Field(ge=1, le=100, allow_inf_nan=False)
    input_overhead: int = Field(ge=0)
    texts_per_request: int = Field(2048, gt=0)
    text_tokens_per_request: int = Field(300_000, gt=0)

    def most_input(self, counted: int) -> int:
        """The most input tokens that the provider can count where we count so many."""
        return ceil(counted * self.input_margin) + self.input_overhead


class Model(Data):
    """One model. Sizes in tokens; `json_by` says how it is made to answer in JSON.

    `litellm` is litellm's name, for Azure `azure/<deployment>`; `base_model` then names the model behind it.
    `api_base` is the address of a server of its own, whose key is in `api_key_env`. From the day `deprecated` on,
    the provider may have switched it off."""

    id: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    provider: Annotated[str, Field(max_length=LONGEST_PROVIDER)]
    litellm: str = Field(min_length=1)
    base_model: str | None = None
    api_base: str | None = Field(None, pattern="^https?://")
    api_key_env: str | None = Field(None, min_length=1)
    api_version: str | None = None
    kind: ModelKind
    price: Price
    long_context: LongContext | None = None
    context: int = Field(gt=0)
    max_output: int = Field(ge=0)
    tokenizer: Literal["o200k_base", "cl100k_base"]
    json_by: Literal["schema", "tool", "object", "prompt"] = "prompt"
    dimensions: int | None = Field(default=None, gt=0)
    premium: bool = False
    offered: bool = True
    deprecated: date | None = None
    aliases: tuple[Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)], ...] = ()
    strengths: tuple[str, ...] = ()
    best_for: tuple[str, ...] = ()

    @property
    def wire_name(self) -> str:
        """The name (for Azure: the deployment) that the provider sees."""
        return self.litellm.partition("/")[2] or self.litellm

    @cached_property
    def rates(self) -> Rates:
        long = self.long_context
        return self.price.rates(long.rates(), long.above) if long else self.price.rates()

    def over(self, today: date | None) -> bool:
        """Whether its provider may have switched it off by that day; None is no day."""
        return self.deprecated is not None and today is not None and today >= self.deprecated


class Registry(Data):
    """All models by id, and their providers by name."""

    providers: dict[str, Provider]
    models: dict[str, Model]

    @cached_property
    def _ids(self) -> dict[str, str]:
        return {alias: model.id for model in self.models.values() for alias in model.aliases}

    @cached_property
    def _offered(self) -> dict[str, tuple[Model, ...]]:
        kinds = ("chat", "embedding")
        return {kind: tuple(m for m in self.models.values() if m.kind == kind and m.offered) for kind in kinds}

    def find(self, name: str) -> Model | None:
        """The model of that id or alias."""
        return self.models.get(self._ids.get(name, name))

    def resolve(self, name: str, kind: ModelKind, voice: str = "model") -> Model:
        """The model of that id or alias; `UnknownModel` says which names there are. `voice` is who named it; what a
        header said is not repeated."""
        model = self.find(name)
        if model is not None and model.kind == kind:
            return model
        shown = "the given name" if voice == HEADER or not name.isprintable() else repr(name[:60])
        trouble = f"is no {kind} model" if model else "is not in the model registry"
        known = ", ".join(sorted(m.id for m in self.models.values() if m.kind == kind))
        raise UnknownModel(f"{voice}: {shown} {trouble}; known {kind} models: {known}")

    def provider_of(self, model: Model) -> Provider:
        return self.providers[model.provider]

    def offered(self, kind: ModelKind) -> tuple[Model, ...]:
        return self._offered[kind]


def parse_registry(text: str, source: str, base: dict[str, Any] | None = None) -> Registry:
    """The registry of a TOML text; `RegistryError` names `source`, the model and the field. What the text says goes
    over `base` (another registry's data), entry by entry and field by field, unless it says `replace = true`."""
    data = _toml(text, source)
    replace = data.pop("replace", False)
    if not isinstance(replace, bool):
        raise RegistryError(f"{source}: replace: give true or false")
    if base is not None and not replace:
        data = _over(base, data)
    models = data.get("models")
    for name, entry in models.items() if isinstance(models, dict) else ():
        if isinstance(entry, dict):
            entry["id"] = name
    try:
        registry = checked(Registry, data, source)
    except DataError as error:
        raise RegistryError(str(error)) from None
    for model in registry.models.values():
        if trouble := _fault(model, registry):
            raise RegistryError(f"{source}: models.{model.id}.{trouble}")
    return registry


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise RegistryError(f"{source}: not valid TOML: {str(error) or type(error).__name__}") from None


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table."""
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        merged[name] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _fault(model: Model, registry: Registry) -> str | None:
    """What is wrong between an entry's fields, or between entries: `field: what`."""
    names = [name for other in registry.models.values() for name in (other.id, *other.aliases)]
    long = model.long_context
    faults = {
        "id: must be printable": not model.id.isprintable(),
        f"provider: {model.provider!r} is not under [providers]": model.provider not in registry.providers,
        "dimensions: an embedding model needs them": model.kind == "embedding" and model.dimensions is None,
        "max_output: a chat model needs more than 0": model.kind == "chat" and model.max_output == 0,
        "api_key_env: an own api_base needs one, or another server's key would be sent there": (
            model.api_base is not None and model.api_key_env is None
        ),
        "long_context.above: the model's context ends before that": long is not None and long.above >= model.context,
        **{f"aliases: {alias!r} is another model's name too": names.count(alias) > 1 for alias in model.aliases},
    }
    return next((fault for fault, found in faults.items() if found), None)


@once_per_environment
def load_registry() -> Registry:
    """The registry that ships with Paymaster, with what `MODEL_REGISTRY_FILE` says; read once per process."""
    shipped = SHIPPED.read_text(encoding="utf-8")
    path = read_settings(SelectionSettings).model_registry_file
    if path is None:
        return parse_registry(shipped, SHIPPED.name)
    try:
        own = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RegistryError(f"MODEL_REGISTRY_FILE: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RegistryError(f"MODEL_REGISTRY_FILE: {path} is not UTF-8 text") from None
    return parse_registry(own, str(path), _toml(shipped, SHIPPED.name))
