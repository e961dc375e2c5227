"""`paymaster costs`: what the last days came to, from the daily rollup."""

import time
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Row

from budget.money import nano_to_usd
from budget.periods import periods_at
from budget.settings import BudgetSettings
from cli import output
from cli.inputs import one_of
from db.environment import read_settings
from db.rollup import BY, costs
from db.session import read
from watch.rollup import roll_up


def show_costs(*, days: int, by: str, as_json: bool) -> None:
    """The spending of the last days, today included, by one of `db.rollup.BY`. What was settled since the last round of
    the rollup is added up first."""
    one_of("grouping", by, [*BY])
    today = date.fromisoformat(periods_at(time.time(), read_settings(BudgetSettings).budget_timezone).day)
    first = (today - timedelta(days=days - 1)).isoformat()
    roll_up()
    with read() as session:
        found = costs(session, first, by)
    total = [sum(int(row[place]) for row in found) for place in range(1, 5)]
    if as_json:
        rows = [{by: row.key or None, **_figures(row[1:])} for row in found]
        output.print_json({"from": first, "to": today.isoformat(), "by": by, "rows": rows, "total": _figures(total)})
        return
    columns = (by, "spent", "generated", "each", "calls", "failed")
    shown = [(row.key or "-", *_cells(row[1:])) for row in found]
    if len(shown) > 1:
        shown.append(("total", *_cells(total)))
    output.console.print(output.table(f"Costs, {first} to {today}", columns, shown, right=columns[1:]))


def _figures(sums: Sequence[Any] | Row[Any]) -> dict[str, Any]:
    """The sums of `db.rollup.costs` as JSON."""
    cost, generations, attempts, failures = map(int, sums)
    return {
        "cost_usd": nano_to_usd(cost),
        "generations": generations,
        "cost_per_generation_usd": nano_to_usd(cost) / generations if generations else None,
        "attempts": attempts,
        "failed_attempts": failures,
    }


def _cells(sums: Sequence[Any] | Row[Any]) -> tuple[str, ...]:
    cost, generations, attempts, failures = map(int, sums)
    each = _amount(cost // generations) if generations else "-"
    return _amount(cost), f"{generations:,}", each, f"{attempts:,}", f"{failures:,}"


def _amount(nano: int) -> str:
    """An amount for a table: a short embedding costs little more than a millionth of a dollar."""
    usd = nano_to_usd(nano)
    return f"${usd:,.4f}" if usd >= 1 else f"${usd:.6f}"
