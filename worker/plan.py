"""What an attempt is for, and what came of it."""

from dataclasses import dataclass
from typing import Any

from budget.money import Usage
from db.models import CostBasis
from selection.registry import Model
from worker.kind import JobKind


@dataclass(frozen=True, slots=True)
class Plan:
    """What an attempt is for. `job_cap` in nano-USD. Before it, the job waited `waited_ms` for a worker, and from
    `ready_at` (of `time.monotonic()`) on the time is our own."""

    job_id: str
    number: int
    part: int
    kind: JobKind
    model: Model
    user_id: str | None
    api: str | None
    strategy: str
    reason: str
    job_cap: int | None
    runner: str
    waited_ms: int
    ready_at: float


@dataclass(frozen=True, slots=True)
class Done:
    """A call that has ended: the data of its answer, its usage and cost in nano-USD, how that is known, and how long
    we took before it and the provider for it; no times if the request never left."""

    data: Any
    usage: Usage | None
    cost: int
    basis: CostBasis
    quality: float | None
    overhead_ms: int | None
    milliseconds: int | None
