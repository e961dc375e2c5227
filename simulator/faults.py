"""Faults on order: which requests go wrong, and how. Rules are data, checked when they are set."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from simulator.catalogue import Served
from simulator.generation import Generation, halved, reworded
from simulator.refusals import Code, Status

Route = Literal["chat", "embeddings", "messages"]
Seconds = Annotated[float, Field(ge=0, le=86_400)]

# A lognormal's 95th percentile lies this many sigma above its median.
Z95 = 1.6448536269514722

REFUSAL = "I'm sorry, but I can't help with that request."

# What the client is told it used, by (input, output) tokens; None leaves usage out. The bill stays true.
USAGES = {"missing": None, "zero": (0.0, 0), "absurd": (1.0, 10**12), "negative": (-1.0, 0), "half": (0.5, 0)}


class Rule(BaseModel):
    """The requests that a fault meets. `after` are skipped, of the next `first` a `share` is hit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    route: Route | None = None
    share: float = Field(default=1, ge=0, le=1)
    first: int | None = Field(default=None, ge=0)
    after: int = Field(default=0, ge=0)

    def matches(self, model: Served, route: str) -> bool:
        """Whether the request is one that this rule counts."""
        if isinstance(self, TextFault) and route == "embeddings":
            return False
        return self.route in (None, route) and self.model in (None, model.id, model.wire_name)


class TextFault(Rule):
    """A fault of a written answer: embeddings do not have it."""


class StatusFault(Rule):
    """The provider refuses, unbilled. `retry_after` in seconds."""

    fault: Literal["status"]
    status: Status
    code: Code | None = None
    retry_after: Seconds | None = None


class HangFault(Rule):
    """Billed, then silent for `seconds`."""

    fault: Literal["hang"]
    seconds: Seconds = 3600


class DripFault(Rule):
    """Billed, then sent `bytes` at a time, with `seconds` between."""

    fault: Literal["drip"]
    bytes: int = Field(default=1, ge=1)
    seconds: Seconds = 0.1


class ResetFault(Rule):
    """The connection is reset: after generating (billed), or `before` (unbilled)."""

    fault: Literal["reset"]
    before: bool = False


class CutFault(Rule):
    """Billed; half the body is sent under the length of the whole, then the connection closes."""

    fault: Literal["cut"]


class MalformedFault(Rule):
    """Billed; status 200 with HTML or broken JSON."""

    fault: Literal["malformed"]
    body: Literal["html", "json"] = "html"


class InvalidJsonFault(TextFault):
    """Billed; the content is broken JSON, or an object without its first fields."""

    fault: Literal["invalid_json"]
    form: Literal["broken", "missing"] = "broken"


class UsageFault(Rule):
    """Billed truly; the usage shown is wrong."""

    fault: Literal["usage"]
    usage: Literal["missing", "zero", "absurd", "negative", "half"]


class RefusalFault(TextFault):
    """Billed; the model declines."""

    fault: Literal["refusal"]


class FilterFault(TextFault):
    """Billed; the answer ends early with finish_reason content_filter."""

    fault: Literal["content_filter"]


class TruncateFault(TextFault):
    """Billed; the answer ends half way with finish_reason length."""

    fault: Literal["truncate"]


class LatencyFault(Rule):
    """A late but normal answer: `seconds`, or lognormal by `p50` and `p95` seconds."""

    fault: Literal["latency"]
    seconds: Seconds | None = None
    p50: Annotated[float, Field(gt=0, le=86_400)] | None = None
    p95: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> LatencyFault:
        spread = self.p50 is not None and self.p95 is not None and self.p50 <= self.p95
        if (self.seconds is None) != spread or (self.p50 is None) != (self.p95 is None):
            raise ValueError("give either seconds, or p50 and p95 with p50 <= p95")
        return self

    def draw(self, source: random.Random) -> float:
        """Seconds to wait."""
        if self.p50 is None or self.p95 is None:
            return self.seconds or 0.0
        return source.lognormvariate(math.log(self.p50), math.log(self.p95 / self.p50) / Z95)


Fault = Annotated[
    StatusFault
    | HangFault
    | DripFault
    | ResetFault
    | CutFault
    | MalformedFault
    | InvalidJsonFault
    | UsageFault
    | RefusalFault
    | FilterFault
    | TruncateFault
    | LatencyFault,
    Field(discriminator="fault"),
]


class Orders(BaseModel):
    """The body of PUT /faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    rules: list[Fault] = []


def read_orders(raw: bytes) -> Orders:
    """The orders; ValueError with one sentence that names the field."""
    try:
        return TypeAdapter(Orders).validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise ValueError(f"{place}: {first['msg']}.") from None


@dataclass(slots=True)
class _Counted:
    rule: Fault
    source: random.Random
    seen: int = 0

    def hits(self, model: Served, route: str) -> bool:
        if not self.rule.matches(model, route):
            return False
        self.seen += 1
        place = self.seen - self.rule.after
        if place < 1 or (self.rule.first is not None and place > self.rule.first):
            return False
        return self.rule.share >= 1 or self.source.random() < self.rule.share


@dataclass(slots=True)
class Faults:
    """The rules in force and what they have counted."""

    orders: Orders = field(default_factory=Orders)
    _rules: list[_Counted] = field(default_factory=list)

    def set(self, orders: Orders) -> None:
        """Put new rules in force; all counts start anew."""
        self.orders = orders
        self._rules = [
            _Counted(rule, random.Random(f"{orders.seed}:{place}")) for place, rule in enumerate(orders.rules)
        ]

    def choose(self, model: Served, route: str) -> tuple[Fault | None, float]:
        """The fault of this request and the seconds it waits.

        Every rule counts every request that it matches. Of the rules that hit, the first is played; those of
        latency add up and go with any other.
        """
        chosen, delay = None, 0.0
        for counted in self._rules:
            if not counted.hits(model, route):
                continue
            if isinstance(counted.rule, LatencyFault):
                delay += counted.rule.draw(counted.source)
            else:
                chosen = chosen or counted.rule
        return chosen, delay


def altered(generation: Generation, fault: Fault | None) -> Generation:
    """The answer as the fault has the model write it; its usage is counted anew."""
    if isinstance(fault, RefusalFault):
        return reworded(generation, REFUSAL, "refusal")
    if isinstance(fault, FilterFault):
        return halved(generation, "content_filter")
    if isinstance(fault, TruncateFault):
        return halved(generation, "length")
    if isinstance(fault, InvalidJsonFault):
        return reworded(generation, _spoiled(generation.text, fault.form))
    return generation


def _spoiled(text: str, form: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if form == "missing" and isinstance(found, dict):
        kept = dict(list(found.items())[(len(found) + 1) // 2 :])
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return "Here is the JSON you asked for:\n" + text[:-1].replace('":', "' =", 1)


def shown_usage(generation: Generation, fault: Fault | None) -> tuple[int, int] | None:
    """The (input, output) tokens that the client is told."""
    true = (generation.input_tokens, generation.output_tokens)
    if not isinstance(fault, UsageFault):
        return true
    wrong = USAGES[fault.usage]
    return wrong and (int(true[0] * wrong[0]) + wrong[1], int(true[1] * wrong[0]) + wrong[1])
