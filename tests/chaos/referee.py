"""What a scenario has done to jobs and money, told by the simulator's bill and by SQL, and what must hold."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy import select

from budget.compare import differences
from budget.correct import correct
from budget.ledger import ledger
from budget.rebuild import rebuild_if_cold
from budget.scopes import WARM
from db.models import Attempt, AttemptState, CostBasis, Job, JobState, utc_now
from db.session import read
from selection.strategies import load_strategies
from tests.chaos.stage import Stage

# clocks are the same machine's; a bill is written a moment before or after what it stands for
AROUND = timedelta(seconds=1)


@dataclass
class Report:
    """Amounts in nano-USD. `bill_minus_ledger` is before unknown calls were corrected, `after_correction` after it;
    `success_rate` counts jobs that succeeded, of all."""

    scenario: str
    form: str
    seed: int
    jobs: int = 0
    lost: int = 0
    failed: int = 0
    paid_twice: int = 0
    attempts: int = 0
    unknown: int = 0
    bill: int = 0
    ledger: int = 0
    bill_minus_ledger: int = 0
    after_correction: int = 0
    seconds_to_recover: float = 0
    success_rate: float = 0
    seconds: float = 0
    seen: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


@dataclass
class Explained:
    """Which entry of the bill is which attempt's: `unknown` by attempt id; `extra` are nobody's."""

    unknown: dict[str, int]
    extra: list[dict[str, Any]]


def explain(rows: list[Attempt], entries: list[dict[str, Any]]) -> Explained:
    """Give every entry of the bill to an attempt of its model that was under way when the request was received: first
    to those whose cost is known, by that cost; the rest to those of which nobody knows. Of several the one that ended
    first takes it, so that the others remain for later entries."""
    left = {entry["seq"]: entry for entry in sorted(entries, key=lambda entry: float(entry["received"]))}
    for row in sorted((row for row in rows if row.cost_basis == CostBasis.USAGE), key=_end):
        mine = (e["seq"] for e in left.values() if e["cost_nano"] == row.cost_nano and _is_of(e, row))
        left.pop(next(mine, -1), None)
    open_rows = sorted((row for row in rows if row.cost_basis == CostBasis.RESERVATION), key=_end)
    unknown: dict[str, int] = {}
    extra = []
    for entry in left.values():
        row = next((row for row in open_rows if row.id not in unknown and _is_of(entry, row)), None)
        if row is None:
            extra.append(entry)
        else:
            unknown[row.id] = entry["cost_nano"]
    return Explained({row.id: unknown.get(row.id, 0) for row in open_rows}, extra)


def _is_of(entry: dict[str, Any], row: Attempt) -> bool:
    """Whether the request was received while the attempt was under way, from its model."""
    begin, end = row.created_at - AROUND, _end(row) + AROUND
    return bool(row.model_name == entry["model"] and begin.timestamp() <= entry["received"] <= end.timestamp())


def _end(row: Attempt) -> datetime:
    return row.settled_at or utc_now()


def judge(stage: Stage, report: Report, ids: list[str], *, exactly_once: bool, least_success: float) -> None:
    """Fill in the report, and say in `violations` what does not hold."""
    with read() as session:
        jobs = list(session.scalars(select(Job)))
        rows = list(session.scalars(select(Attempt).order_by(Attempt.created_at)))
    bill = stage.ask("GET", "/bill?entries=1")
    explained = explain(rows, bill["entries"])
    final = [job for job in jobs if job.id in set(ids) and JobState(job.state).final]
    good = Counter((row.job_id, row.part) for row in rows if row.state == AttemptState.SUCCEEDED)
    month = ledger().usage()[1]

    report.jobs = len(ids)
    report.lost = len(ids) - len(final)
    report.failed = sum(job.state != JobState.SUCCEEDED for job in final)
    report.attempts, report.unknown = len(rows), len(explained.unknown)
    report.paid_twice = sum(number - 1 for number in good.values()) + len(explained.extra)
    if exactly_once:
        report.paid_twice = max(report.paid_twice, len(bill["entries"]) - len(ids))
    report.bill, report.ledger = int(bill["cost_nano"]), month.spent + month.reserved
    report.bill_minus_ledger = report.bill - report.ledger
    report.success_rate = round((len(final) - report.failed) / len(ids), 4)
    report.errors = dict(Counter(job.error_code or "?" for job in final if job.state == JobState.FAILED))
    over, held = _scopes()
    costs = Counter({row.job_id: 0 for row in rows})
    for row in rows:
        costs[row.job_id] += row.cost_nano
    must_hold = {
        f"{report.lost} jobs are lost": report.lost == 0,
        f"{report.paid_twice} calls were paid twice": report.paid_twice == 0,
        f"the bill is {report.bill_minus_ledger} above the ledger": report.bill_minus_ledger <= 0,
        f"limits are overrun: {over}": not over,
        f"money stays reserved: {held}": not held,
        "jobs cost more than their cap": all(job.total_cost_nano <= _cap(job) for job in final),
        f"only {report.success_rate:.2%} of the jobs succeeded": report.success_rate >= least_success,
        "a job's cost is not that of its attempts": all(job.total_cost_nano == costs[job.id] for job in final),
        "nobody died, and still bill and ledger differ": not exactly_once or report.bill == report.ledger,
    }
    _correct(explained.unknown)
    gaps = sorted({gap.key.split(":")[1] for gap in differences(ledger())})
    report.after_correction = report.bill - ledger().usage()[1].spent
    must_hold |= {
        f"Redis and SQL differ on {gaps}": not gaps,
        f"after correction, bill - ledger is {report.after_correction}": report.after_correction == 0,
    }
    report.violations += [sentence for sentence, holds in must_hold.items() if not holds]


def _scopes() -> tuple[list[str], list[str]]:
    """The budgets that are overrun, and those in which something is reserved though nothing runs."""
    uses = ledger().usage()
    over = [use.name for use in uses if use.limit is not None and use.spent + use.reserved > use.limit]
    return over, [use.name for use in uses if use.reserved]


def _cap(job: Job) -> int:
    return load_strategies()[job.model_selection_strategy or "balanced"].job_cap


def _correct(costs: dict[str, int]) -> None:
    """Put right what nobody knew. Where Redis has forgotten the reservations, the counters are rebuilt once and not
    for each, and at once, since nothing runs."""
    with patch("budget.correct.rebuild") as needed:
        for attempt_id, cost in costs.items():
            correct(attempt_id, cost, "the referee")
    if needed.called:
        ledger().client.delete(WARM)
        rebuild_if_cold(ledger(), wait_s=0)
