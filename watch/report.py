"""The daily cost report: the figures of a day, and when they are written down. docs/report.md says what each means.

Figures are plain data: what ends in `_nano` is nano-USD, shares and percents are made where they are shown."""

import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from budget.money import Usage, usd_to_nano
from budget.periods import Periods, periods_at
from budget.settings import BudgetSettings, parse_limit
from db import reports, rounds
from db.changes import in_force
from db.environment import read_settings
from db.models import Attempt, Report
from db.session import snapshot, write
from selection.registry import load_registry
from selection.settings import SelectionSettings
from selection.strategies import find_strategy
from watch.render import FORMS, render

__all__ = ["FORMS", "figures_of", "render", "stored", "today", "usual_day", "write_due"]

# a day is looked at, and its report written again, for so long
LOOK_BACK_DAYS = 35
PICTURE_DAYS = 30
# rows of a table, and of a list
TOP = 20
LISTED = 50

# what concerns other days as well: as it was when the report was written
AS_WRITTEN = ("written_at", "month_nano", "days")

LEGACY = "legacy"
TABLES = {
    "models": Attempt.model_name,
    "strategies": Attempt.strategy,
    "apis": Attempt.api,
    "users": Attempt.user_id,
}
LISTS = {"open": reports.CALLING, "unknown": reports.UNKNOWN, "overruns": reports.OVERRUN}
LIMITS = {"daily": "daily_budget_usd", "monthly": "monthly_budget_usd", "user": "max_cost_per_user_daily_usd"}


def today(now: float | None = None) -> date:
    """The budget's day, by this machine's clock."""
    return date.fromisoformat(_periods(time.time() if now is None else now).day)


def usual_day() -> date:
    """The day whose report one most likely wants: yesterday; today where nothing was called before it."""
    with snapshot() as session:
        return today() - timedelta(days=reports.has_older(session, today().isoformat()))


def figures_of(day: date) -> dict[str, Any]:
    """The figures of a day: as they were written down if nothing of it has changed since, else as they are now."""
    with snapshot() as session:
        report = session.get(Report, day.isoformat())
        if report is not None:
            touched = reports.touched(session, report.created_at - rounds.MARGIN, report.day)
            if not touched and report.figures["open_jobs"] == reports.open_jobs(session).get(report.day, 0):
                return report.figures
        return _figures(session, day, time.time(), report)


def stored(day: date) -> dict[str, Any] | None:
    """The figures of a day as they were written down; they are kept for good."""
    with snapshot() as session:
        report = session.get(Report, day.isoformat())
        return report.figures if report else None


def write_due(now: float | None = None) -> list[str]:
    """Write the reports that are due, oldest first; returns their days. Due is each of the last days that is over and
    had calls, if it has no report, or one whose figures are no longer true. May run at any time, anywhere, again.
    `DaysFailed` if one could not be written; the others are."""
    now = time.time() if now is None else now
    begun = datetime.fromtimestamp(now, UTC)
    days = [(today(now) - timedelta(days=ago)).isoformat() for ago in range(LOOK_BACK_DAYS, 0, -1)]
    with snapshot() as session:
        kept = reports.reports(session, days)
        since = max(rounds.last(session, rounds.REPORT), begun - timedelta(days=LOOK_BACK_DAYS))
        touched = reports.touched(session, since - rounds.MARGIN)
        waiting = reports.open_jobs(session)
        called = reports.days_with_attempts(session, days[0], days[-1])

        def is_due(day: str) -> bool:
            if day not in kept:
                return day in called
            return day in touched or kept[day].figures["open_jobs"] != waiting.get(day, 0)

        due = [day for day in days if is_due(day)]
    written = rounds.each_day(due, lambda day: _write(date.fromisoformat(day), now))
    with write() as session:
        rounds.complete(session, rounds.REPORT, begun)
    return written


def _write(day: date, now: float) -> bool:
    """Write the report of a day; False if it says the same already."""
    with snapshot() as session:
        report = session.get(Report, day.isoformat())
        figures = _figures(session, day, now, report)
    if report is not None and all(
        report.figures.get(name) == figures[name] for name in figures if name not in AS_WRITTEN
    ):
        return False
    with write() as session:
        # of two that write a first report at once, the second must find the other's
        rounds.lock(session, rounds.REPORT)
        session.merge(Report(day=day.isoformat(), figures=figures, created_at=datetime.fromtimestamp(now, UTC)))
    return True


def _periods(moment: float) -> Periods:
    return periods_at(moment, read_settings(BudgetSettings).budget_timezone)


def _figures(session: Session, day: date, now: float, earlier: Report | None) -> dict[str, Any]:
    settings = read_settings(BudgetSettings)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=settings.budget_timezone)
    period = periods_at(noon.timestamp(), settings.budget_timezone)
    (total,) = reports.groups(session, period.day)
    spent = reports.spent_by_day(session, min(day.replace(day=1), day - timedelta(days=PICTURE_DAYS - 1)), day)
    spent[period.day] = total["cost_nano"]
    month = sum(cost for other, cost in spent.items() if other.startswith(period.month))
    # the environment of that day is not known later
    limits = earlier.figures["limits"] if earlier else _limits(session, period.day_end)
    return {
        "day": period.day,
        "zone": str(settings.budget_timezone),
        "hours": _whole((period.day_end - period.day_start) / 3600),
        "ended": now >= period.day_end,
        "written_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "limits": limits,
        "alert_percent": f"{(settings.cost_alert_threshold * 100).normalize():f}",
        "month": period.month,
        "month_nano": month,
        "total": total,
        "open_jobs": total["jobs"] - total["jobs_ended"],
        **{name: _table(session, period.day, column, total) for name, column in TABLES.items()},
        "saving": _saving(session, period.day, total["cost_nano"]),
        "days": [{"day": other, "cost_nano": cost} for other, cost in [*spent.items()][-PICTURE_DAYS:]],
        **{name: _list(session, period.day, which) for name, which in LISTS.items()},
        "corrections": _corrections(session, period.day),
    }


def _limits(session: Session, until: int) -> dict[str, int | None]:
    """The limits that held when the day ended, in nano-USD: what was set by hand, else the environment's."""
    by_hand = in_force(session, "limit", datetime.fromtimestamp(until, UTC))
    settings = read_settings(BudgetSettings)
    return {
        f"{name}_nano": parse_limit(by_hand[name]) if name in by_hand else getattr(settings, field)
        for name, field in LIMITS.items()
    }


def _table(session: Session, day: str, column: Any, total: dict[str, Any]) -> dict[str, Any]:
    """The dearest rows, and how many others there are and what they make together."""
    rows = reports.groups(session, day, column, TOP)
    others = reports.names(session, day, column) - len(rows) if len(rows) == TOP else 0
    rest = total["cost_nano"] - sum(row["cost_nano"] for row in rows)
    return {"rows": rows, "others": others, "others_nano": rest}


def _saving(session: Session, day: str, cost: int) -> dict[str, Any]:
    """What the day's counted tokens cost, and what the strategy `legacy` would have paid for them on its model of that
    kind. All of a kind are priced at once, so rounded up once. What was charged without counting is on neither side."""
    rows = []
    legacy, default = find_strategy(LEGACY), read_settings(SelectionSettings).llm_model_default
    for row in reports.counted_tokens(session, day):
        if row.kind not in legacy.models:
            continue  # a kind that there is no more
        level = legacy.rungs[row.kind][-1].level
        model = load_registry().resolve(legacy.models[row.kind].get(level, default), legacy.kinds[row.kind])
        usage = Usage(int(row.input), int(row.output), int(row.cached))
        # a long context is a matter of one call
        legacy_cost = replace(model.rates, long=None).cost(usage)
        rows.append(
            {
                "kind": row.kind, "model": model.id, "calls": row.calls, "input_tokens": usage.input,
                "output_tokens": usage.output, "cost_nano": int(row.cost), "legacy_nano": legacy_cost,
            }
        )  # fmt: skip
    counted = sum(row["cost_nano"] for row in rows)
    legacy_nano = sum(row["legacy_nano"] for row in rows)
    return {"rows": rows, "cost_nano": counted, "legacy_nano": legacy_nano, "left_out_nano": cost - counted}


def _list(session: Session, day: str, which: Any) -> dict[str, Any]:
    count, dearest = reports.listed(session, day, which, LISTED)
    rows = [
        {
            "attempt": attempt.id, "job": attempt.job_id, "model": attempt.model_name, "code": attempt.error_code,
            "reserved_nano": attempt.reserved_nano, "cost_nano": attempt.cost_nano,
        }
        for attempt in dearest
    ]  # fmt: skip
    return {"count": count, "rows": rows}


def _corrections(session: Session, day: str) -> dict[str, Any]:
    count, latest = reports.corrections(session, day, LISTED)
    rows = [
        {
            "attempt": change.subject, "model": model, "who": change.who, "at": change.created_at.isoformat(),
            "before_nano": _nano(change.before), "after_nano": _nano(change.after),
        }
        for change, model in latest
    ]  # fmt: skip
    return {"count": count, "rows": rows}


def _whole(hours: float) -> float:
    """A whole number as such: in some zones a day has 23.5 hours."""
    return int(hours) if hours.is_integer() else hours


def _nano(text: str | None) -> int:
    """An amount as `budget.correct` notes it: `$1,234.50`."""
    return usd_to_nano((text or "0").lstrip("$").replace(",", ""))
