"""`paymaster costs`: the rollup as a table of 80 columns and as JSON, up to date when it is shown."""

import json
import time
from datetime import date, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import insert

from budget.periods import periods_at
from budget.settings import BudgetSettings
from cli import output
from cli.costs import show_costs
from db.environment import read_settings
from db.models import Attempt, AttemptState, Job, utc_now
from db.rollup import BY
from db.session import write

pytestmark = pytest.mark.usefixtures("environment")
LONG = {"user_id": "u" * 64, "model_name": "claude-sonnet-4-20250514", "api": "resume_tailor"}


def today() -> date:
    return date.fromisoformat(periods_at(time.time(), read_settings(BudgetSettings).budget_timezone).day)


def add(days_ago: int, cost: int, **columns: Any) -> None:
    """A job that succeeded, or one whose only attempt failed."""
    day = (today() - timedelta(days=days_ago)).isoformat()
    state = columns.get("state", AttemptState.SUCCEEDED)
    with write() as session:
        job = Job(id=f"j{time.monotonic_ns()}", kind="parse", queue="parse", payload={})
        session.add(job)
        session.flush()
        row = {
            "id": job.id, "job_id": job.id, "number": 1, "part": 0, "state": state, "model_name": "m", "provider": "p",
            "task_type": "parse", "strategy": "balanced", "reason": "r", "budget_day": day, "budget_month": day[:7],
            "reserved_nano": cost, "cost_nano": cost, "success": state == AttemptState.SUCCEEDED,
            "settled_at": utc_now(),
        }  # fmt: skip
        session.execute(insert(Attempt), [{**row, **columns}])


def told(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    show_costs(**{"days": 30, "by": "day", **options}, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_was_settled_a_moment_ago_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    add(0, 5_000_000)
    assert told(capsys)["total"]["cost_usd"] == 0.005
    add(0, 2_000_000)
    add(0, 1_000_000, state=AttemptState.UNKNOWN)
    found = told(capsys)
    row = {"cost_usd": 0.008, "generations": 2, "cost_per_generation_usd": 0.004, "attempts": 3, "failed_attempts": 1}
    assert found == {"from": (today() - timedelta(days=29)).isoformat(), "to": today().isoformat(), "by": "day",
                     "rows": [{"day": today().isoformat(), **row}], "total": row}  # fmt: skip


def test_only_so_many_days_are_counted_today_included(capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in range(5):
        add(days_ago, 10**9)
    for days in (1, 2, 5, 9):
        assert told(capsys, days=days)["total"]["generations"] == min(days, 5)
    assert [row["day"] for row in told(capsys, days=3)["rows"]] == [
        (today() - timedelta(days=ago)).isoformat() for ago in (2, 1, 0)
    ]


def test_what_has_no_user_or_api_is_told_apart_and_the_dearest_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    add(0, 1)
    add(0, 10, **LONG)
    assert [row["user"] for row in told(capsys, by="user")["rows"]] == ["u" * 64, None]
    assert [row["api"] for row in told(capsys, by="api")["rows"]] == ["resume_tailor", None]


@pytest.mark.parametrize("by", BY)
def test_the_table_fits_a_terminal_of_80_columns(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(0, 123_456_789_012_345, **LONG)
    add(1, 23_456)
    add(0, 0, state=AttemptState.FAILED, strategy="quality_optimized", task_type="embed")
    paper = StringIO()
    monkeypatch.setattr(output, "console", Console(width=80, file=paper))
    show_costs(days=7, by=by, as_json=False)
    lines = paper.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (total,) = [line for line in lines if line.split()[:1] == ["total"]]
    assert total.split() == ["total", "$123,456.7890", "2", "$61,728.3945", "3", "1"]
