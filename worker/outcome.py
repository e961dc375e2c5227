"""What a call came to, as plain data: written to SQL in one transaction, and kept in a file while SQL is away."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from db import attempts, jobs
from db.attempts import RUNNER_LOST
from db.models import AttemptState, CostBasis
from worker.kind import JobKind, Vectors


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt. `values` are the columns of its row; `data` is what the answer brought, None of a call
    that failed; `finish` is what finishes the job (its metadata and strategy), None while calls are left."""

    attempt_id: str
    job_id: str
    kind: str
    part: int
    model: str
    scope_keys: tuple[str, ...]
    values: dict[str, Any]
    data: Any = None
    finish: dict[str, Any] | None = None

    @property
    def basis(self) -> CostBasis:
        return CostBasis(self.values["cost_basis"])

    @property
    def cost(self) -> int:
        """nano-USD"""
        return int(self.values["cost_nano"])

    def write(self, session: Session, kind: JobKind) -> bool:
        """Write it down, which may be repeated. False if its runner was taken for dead meanwhile: then what it cost is
        put right, if nobody knew, and its answer is used, if nobody else runs the job by now."""
        mine = attempts.close(session, self.attempt_id, self.values)
        if mine:
            self._keep(session, kind)
        elif jobs.nobody_runs(session, self.job_id):
            if attempts.close_late(session, self.attempt_id, self.values):
                self._keep(session, kind)
                jobs.recount_cost(session, self.job_id)
        elif attempts.close_late(session, self.attempt_id, self.values | self._too_late()):
            jobs.recount_cost(session, self.job_id)
        return mine

    def _too_late(self) -> dict[str, Any]:
        # it must not look as if its part of the job were done
        if self.data is None:
            return {}
        sentence = "answered after its worker was taken for dead; the answer was not used"
        error = {"error_class": "same", "error_code": RUNNER_LOST, "error": sentence}
        return {"state": AttemptState.FAILED, "success": False, **error}

    def _keep(self, session: Session, kind: JobKind) -> None:
        kept = None if self.data is None else kind.keep(session, self.job_id, self.part, self.data)
        if self.finish is not None:
            jobs.succeed(session, self.job_id, {"result": kept, **self.finish})

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(asdict(self), default=_plain)


def from_json(text: str) -> Outcome:
    """An outcome from its text."""
    fields = json.loads(text)
    if isinstance(fields["data"], dict) and set(fields["data"]) == {"data", "count", "dimensions"}:
        fields["data"] = Vectors(**{**fields["data"], "data": bytes.fromhex(fields["data"]["data"])})
    return Outcome(**{**fields, "scope_keys": tuple(fields["scope_keys"])})


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
