"""What the providers charged: written when an answer has been generated, before its first byte leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from simulator.catalogue import Served

# About 300 MB. Totals go on beyond it; `entries_dropped` says how many entries were not kept.
MAX_ENTRIES = 1_000_000


class Entry(NamedTuple):
    """One billed request. Times are seconds since the epoch, costs nano-USD."""

    seq: int
    request_id: str
    model: str
    route: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_nano: int
    fault: str | None
    received: float


@dataclass(slots=True)
class Totals:
    """Sums over billed requests."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

    def add(self, entry: Entry) -> None:
        """Count one more request."""
        self.requests += 1
        self.input_tokens += entry.input_tokens
        self.cached_tokens += entry.cached_tokens
        self.output_tokens += entry.output_tokens
        self.cost_nano += entry.cost_nano

    def as_dict(self) -> dict[str, Any]:
        """The sums by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Bill:
    """Totals for ever, and entries up to a limit. Used by one event loop: no locks."""

    totals: Totals = field(default_factory=Totals)
    models: dict[str, Totals] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    max_entries: int = MAX_ENTRIES

    def record(
        self,
        *,
        model: Served,
        route: str,
        input_tokens: int,
        output_tokens: int,
        fault: str | None,
        received: float,
        request_id: str,
    ) -> Entry:
        """Charge one generated answer. The simulator has no prompt cache: no token is a cached one."""
        entry = Entry(
            seq=self.totals.requests + 1,
            request_id=request_id,
            model=model.id,
            route=route,
            input_tokens=input_tokens,
            cached_tokens=0,
            output_tokens=output_tokens,
            cost_nano=model.cost_nano(input_tokens, 0, output_tokens),
            fault=fault,
            received=received,
        )
        self.totals.add(entry)
        self.models.setdefault(model.id, Totals()).add(entry)
        if len(self.entries) < self.max_entries:
            self.entries.append(entry)
        return entry

    def report(self, *, entries: bool, after: int = 0) -> dict[str, Any]:
        """The bill as it is answered over HTTP; with `entries`, those whose seq is above `after`."""
        report: dict[str, Any] = self.totals.as_dict()
        report["models"] = {name: totals.as_dict() for name, totals in sorted(self.models.items())}
        report["entries_dropped"] = self.totals.requests - len(self.entries)
        if entries:
            report["entries"] = [entry._asdict() for entry in self.entries[max(0, after) :]]
        return report


@dataclass(slots=True)
class Tally:
    """HTTP requests that reached a provider's route, whatever became of them."""

    requests: int = 0
    routes: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request as in flight meanwhile."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    def as_dict(self) -> dict[str, Any]:
        """Counts: all, by route, the refused by HTTP status, and how many are and were at most in flight."""
        return {
            "requests": self.requests,
            "routes": dict(self.routes),
            "refused": dict(self.refused),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }
