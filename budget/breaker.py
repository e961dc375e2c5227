"""The breaker of each model, shared by all workers: it lives in Redis and is asked and told in the ledger's own
scripts (`scripts/breaker.lua`), at no extra round trip."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import redis

from budget.connection import down
from budget.scopes import breaker_key


class Verdict(StrEnum):
    """What the end of a call says of its model."""

    OK = "ok"
    BAD = "bad"
    NOTHING = ""  # it was the caller's fault, or nobody's


class BreakerState(StrEnum):
    """Whether calls are let through: all, none, or one to try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Told:
    """What a call has to tell: its verdict, and for how long the provider asked to be left alone, in seconds."""

    verdict: Verdict = Verdict.NOTHING
    closed_for_s: int = 0


NOTHING_TOLD = Told()


@dataclass(frozen=True, slots=True)
class Breaker:
    """How the breaker of a model stands; `until` in seconds since 1970 while it is not closed."""

    model: str
    state: BreakerState
    until: int | None
    calls: int
    failures: int

    @property
    def row(self) -> dict[str, Any]:
        """As JSON."""
        until = self.until and datetime.fromtimestamp(self.until, UTC).isoformat()
        return {"state": str(self.state), "until": until, "calls": self.calls, "failures": self.failures}


def breakers(client: redis.Redis, models: Sequence[str]) -> list[Breaker]:
    """The breakers of these models, with the calls that count for them."""
    try:
        with client.pipeline(transaction=False) as pipe:
            for model in models:
                pipe.hgetall(breaker_key(model))
            found = pipe.execute()
    except redis.RedisError as error:
        raise down(error) from None
    return [_breaker(model, fields) for model, fields in zip(models, found, strict=True)]


def _breaker(model: str, fields: dict[str, str]) -> Breaker:
    state, until = BreakerState(fields.get("state", BreakerState.CLOSED)), int(fields.get("until", 0)) or None
    if state is BreakerState.OPEN and until is not None and until <= time.time():
        state = BreakerState.HALF_OPEN  # the next call is the probe
    failures = sum(int(count) for name, count in fields.items() if name.startswith("bad"))
    successes = sum(int(count) for name, count in fields.items() if name.startswith("ok"))
    return Breaker(model, state, until, failures + successes, failures)
