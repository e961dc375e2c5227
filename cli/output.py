"""How the command line shows things: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from budget.ledger import ScopeUse
from budget.money import format_usd, nano_to_usd
from budget.settings import BudgetSettings
from db.models import Job, JobState

# A file or a pipe has no width of its own; eighty columns would fold every table.
PIPE_WIDTH = 160
# what a line per job takes
WIDE = 140

console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, soft_wrap=True)

STYLES = {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}


def print_json(value: Any) -> None:
    """One JSON document on standard output, at once: whoever reads `up --json` waits for it."""
    print(json.dumps(value, indent=2, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in `right` are aligned there."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    if not made.rows:
        made.title, made.show_header, made.box = f"{title}: none", False, None
    return made


def folded(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """The same; where there is no room for that, two lines a row: the columns stand in pairs."""
    if console.width >= WIDE:
        return table(title, columns, rows, right)

    def stack(cells: Sequence[Any]) -> list[str]:
        return [f"{upper}\n{lower}" for upper, lower in zip(cells[::2], cells[1::2], strict=True)]

    pairs = stack(columns)
    return table(title, pairs, map(stack, rows), right=[pair for pair in pairs if {*pair.split("\n")} <= {*right}])


def counted(number: int, what: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def state_text(state: str) -> str:
    style = STYLES.get(JobState(state))
    return f"[{style}]{state}[/]" if style else str(state)


def jobs_table(jobs: Iterable[Job], title: str) -> Table:
    """One line per job: what it ran on, why, and what that cost."""
    rows = []
    for job in jobs:
        told = job.model_metadata or {}
        milliseconds = told.get("processing_time_ms")
        rows.append(
            (
                job.id[:8], job.queue, told.get("model_used", "-"),
                told.get("selection_reason") or job.error or "-",
                told.get("tokens_used", "-"), f"${nano_to_usd(job.total_cost_nano):.5f}",
                "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s", state_text(job.state),
            )
        )  # fmt: skip
    columns = ("job", "tier", "model", "reason", "tokens", "cost", "time", "state")
    return folded(title, columns, rows, right=("tokens", "cost", "time"))


def budget_table(scopes: Iterable[ScopeUse], settings: BudgetSettings) -> Table:
    """How the budgets stand, with a bar per scope; they reset as these days begin in the budget's own zone."""
    zone = settings.budget_timezone
    rows = []
    for scope in scopes:
        left = "-" if scope.left is None else cents(scope.left)
        resets = f"{datetime.fromtimestamp(scope.resets_at, zone):%b %d}" if scope.resets_at else "never"
        used = _bar(scope, settings.cost_alert_threshold)
        rows.append((scope.name, used, limit_text(scope), cents(scope.spent), cents(scope.reserved), left, resets))
    columns = ("budget", "used", "limit", "spent", "reserved", "left", "resets")
    return table(f"Budgets ({zone})", columns, rows, right=("limit", "spent", "reserved", "left"))


def limit_text(scope: ScopeUse) -> str:
    """The limit for people."""
    return "unlimited" if scope.limit is None else format_usd(scope.limit)


def oddities_row(odd: tuple[int, int, int, int]) -> dict[str, Any]:
    """What `db.attempts.oddities` found, as JSON."""
    unknown, charged, over, excess = odd
    return {
        "unknown": {"attempts": unknown, "charged_usd": nano_to_usd(charged)},
        "overruns": {"attempts": over, "excess_usd": nano_to_usd(excess)},
    }


def oddities_lines(odd: tuple[int, int, int, int]) -> list[str]:
    """The same for people; nothing where nothing is odd."""
    unknown, charged, over, excess = odd
    lines = []
    if unknown:
        lines.append(
            f"Attempts of this month whose cost nobody knows: {unknown}, charged at their reservations, "
            f"{format_usd(charged)}. `paymaster budget unknown` lists them."
        )
    if over:
        lines.append(f"Overruns this month (calls above their worst case): {over}, {format_usd(excess)}.")
    return lines


def cents(nano: int) -> str:
    """An amount for a table, to a hundredth of a cent."""
    return f"${nano_to_usd(nano):,.4f}"


def _bar(scope: ScopeUse, threshold: Decimal, width: int = 8) -> str:
    if scope.limit is None:
        return "-"
    share = (scope.spent + scope.reserved) / scope.limit if scope.limit else 1.0
    full = min(width, round(width * share))
    style = "red" if share >= 1 else "yellow" if share >= threshold else "green"
    return f"[{style}]{'█' * full}{'░' * (width - full)}[/] {share:.1%}"
