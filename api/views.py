"""Jobs, attempts and budgets as JSON, the same on the command line and over HTTP."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from budget.ledger import ScopeUse
from budget.money import nano_to_usd
from db.models import Attempt, Job


def job_row(job: Job) -> dict[str, Any]:
    """A job as JSON, without its payload and result."""
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": str(job.state),
        "user_id": job.user_id,
        "api": job.api,
        "cost_usd": nano_to_usd(job.total_cost_nano),
        "error_code": job.error_code,
        "error": job.error,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "pruned_at": job.pruned_at,
        "processing_metadata": job.model_metadata,
    }


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """An attempt as JSON."""
    return {
        "id": attempt.id,
        "number": attempt.number,
        "part": attempt.part,
        "model": attempt.model_name,
        "state": str(attempt.state),
        "reason": attempt.reason,
        "tokens": attempt.tokens_used,
        "reserved_usd": nano_to_usd(attempt.reserved_nano),
        "cost_usd": nano_to_usd(attempt.cost_nano),
        "cost_basis": attempt.cost_basis,
        "queue_time_ms": attempt.queue_time_ms,
        "overhead_ms": attempt.overhead_ms,
        "milliseconds": attempt.processing_time_ms,
        "error": attempt.error,
    }


def scope_row(scope: ScopeUse) -> dict[str, Any]:
    """How a budget stands, as JSON in USD; a limit of null is none."""

    def usd(nano: int | None) -> Decimal | None:
        return None if nano is None else nano_to_usd(nano)

    return {
        "scope": scope.name,
        "limit_usd": usd(scope.limit),
        "spent_usd": usd(scope.spent),
        "reserved_usd": usd(scope.reserved),
        "left_usd": usd(scope.left),
        "resets_at": None if scope.resets_at is None else datetime.fromtimestamp(scope.resets_at, UTC).isoformat(),
    }
