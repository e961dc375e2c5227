"""`paymaster report`: the cost of one day, on the terminal or in a file."""

import io
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.inputs import InputError
from cli.output import console
from watch import report
from watch.render import TABLES
from watch.words import NONE, long_day, number, percent, saved, score, seconds, short_day, success, usd, visible

WIDTH = 80
BAR = 30
SUFFIXES = {"html": "html", "htm": "html", "json": "json", "csv": "csv", "md": "md", "txt": "text"}


def run_report(day: str | None, form: str | None, out: Path | None) -> None:
    """Print or write the report of a day (`YYYY-MM-DD`, `today`, `yesterday`, None for the usual one)."""
    form = _form(form, out)
    figures = report.figures_of(_day(day))
    if out is None and form == "text":
        console.print(_text(figures), width=WIDTH)
        return
    if form == "text":
        plain = Console(file=io.StringIO(), width=WIDTH)
        plain.print(_text(figures))
        made = plain.file.getvalue()  # type: ignore[attr-defined]  # it is ours
    else:
        made = report.render(figures, form)
    if out is None:
        print(made, end="")
        return
    try:
        out.write_text(made, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error.strerror}") from None
    console.print(f"The report of {figures['day']} is in {out}.", highlight=False, markup=False, soft_wrap=True)


def _form(form: str | None, out: Path | None) -> str:
    forms = (*report.FORMS, "text")
    if form is None and out is not None:
        form = SUFFIXES.get(out.suffix.lower().lstrip("."))
        if form is None:
            raise InputError(
                f"--out: {out.name!r} says no format by its suffix; add --format, one of {', '.join(forms)}"
            )
    if form is not None and form not in forms:
        raise InputError(f"--format: {form!r} is unknown; known: {', '.join(forms)}")
    return form or "text"


def _day(text: str | None) -> date:
    """The day that is meant; `InputError` if it cannot be read or is yet to come."""
    today = report.today()
    if text is None:
        return report.usual_day()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    try:
        day = date.fromisoformat(text)
        readable = text == day.isoformat()
    except ValueError:
        readable = False
    if not readable or day.year < 1970:
        raise InputError(
            f"DATE: {text[:40]!r} is no day; give one such as {today - timedelta(days=1)}, today or yesterday"
        )
    if day > today:
        raise InputError(f"DATE: {day} is yet to come; today is {today}")
    return day


def _text(f: dict[str, Any]) -> Group:
    """The report for a terminal of eighty columns."""
    total, saving = f["total"], f["saving"]
    when = f"{f['hours']} hours in {f['zone']}" + ("" if f["ended"] else "; the day is not over")
    parts: list[Any] = [
        Text.assemble(("Daily cost report", "bold"), "  ", long_day(f["day"])),
        Text(when, "dim" if f["ended"] else "yellow"),
        "",
        _budgets(f),
        "",
    ]
    if not total["calls"]:
        parts.append(Text("No model was called."))
    else:
        facts = {
            "jobs": f"{number(total['jobs'])}, {success(total, False)} of those that ended succeeded, "
            f"{number(f['open_jobs'])} open, {number(total['fallbacks'])} by fallback",
            "a call": f"median {seconds(total['p50_ms'])}, 95 of 100 within {seconds(total['p95_ms'])}, "
            f"quality {score(total['quality'])}",
            "saved": f"{saved(saving['cost_nano'], saving['legacy_nano'])} against the models before "
            f"({usd(saving['cost_nano'])} instead of {usd(saving['legacy_nano'])})",
            "reserved": f"{usd(total['reserved_nano'])} for calls that ended, {usd(total['open_nano'])} held",
        }
        grid = Table.grid(padding=(0, 2))
        for name, fact in facts.items():
            grid.add_row(Text(name, "dim"), Text(fact))
        parts += [grid, *(_table(f, key, what) for key, what in TABLES.items() if f[key]["rows"])]
    return Group(*parts, _days(f), *_to_look_at(f))


def _budgets(f: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    alert = float(f["alert_percent"]) / 100
    for name, spent, limit in (
        ("day", f["total"]["cost_nano"], f["limits"]["daily_nano"]),
        ("month", f["month_nano"], f["limits"]["monthly_nano"]),
    ):
        share = 0.0 if limit is None else spent / limit if limit else 1.0
        full = min(BAR, round(BAR * share))
        style = "red" if share >= 1 else "yellow" if share >= alert else "green"
        bar = Text.assemble(("█" * full, style), ("░" * (BAR - full), "dim"))
        said = "no limit" if limit is None else f"{percent(spent, limit)} of {usd(limit)}"
        grid.add_row(Text(name, "dim"), Text(usd(spent), "bold", justify="right"), bar, Text(said))
    return grid


def _plain_table(title: str, columns: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _aligned(amounts: list[int]) -> list[str]:
    """Amounts whose points stand below each other in a column that is aligned to the right."""
    said = [usd(amount) for amount in amounts]
    most = max((len(text) - text.index(".") for text in said), default=0)
    return [text + " " * (most - len(text) + text.index(".")) for text in said]


def _table(f: dict[str, Any], key: str, what: str) -> Padding:
    columns = (what, "cost", "share", "jobs", "success", "p95", "quality")
    table = _plain_table(f"By {what}", columns, columns[1:])
    rows, others, rest = f[key]["rows"], f[key]["others"], f[key]["others_nano"]
    costs = _aligned([*(r["cost_nano"] for r in rows), *([rest] if others else [])])
    for r, cost in zip(rows, costs, strict=False):
        cells = (
            cost, percent(r["cost_nano"], f["total"]["cost_nano"]), number(r["jobs"]), success(r, key == "models"),
            seconds(r["p95_ms"]), score(r["quality"]),
        )  # fmt: skip
        # names are others': as text they are no markup
        table.add_row(Text(visible(r["name"])) if r["name"] else Text("not named", "dim"), *cells)
    if others:
        table.add_row(Text(f"{number(others)} others", "dim"), costs[-1], percent(rest, f["total"]["cost_nano"]))
    return Padding(table, (1, 0, 0, 0))


def _days(f: dict[str, Any]) -> Padding:
    """The last days as bars of eight heights."""
    days = f["days"]
    most = max(day["cost_nano"] for day in days)
    marks = "".join("▁▂▃▄▅▆▇█"[day["cost_nano"] * 7 // most] if day["cost_nano"] else " " for day in days)
    line = Text.assemble(
        (f"{short_day(days[0]['day'])} ", "dim"), (marks, "green"), (f" {short_day(days[-1]['day'])}", "dim"),
        f"   at most {usd(most)} a day" if most else "   nothing was spent",
    )  # fmt: skip
    return Padding(Group(Text(f"The last {len(days)} days", "bold italic"), line), (1, 0, 0, 0))


def _to_look_at(f: dict[str, Any]) -> list[Any]:
    titles = {
        "open": "Calls under way", "unknown": "Cost not known, charged at their reservations",
        "overruns": "Overruns: dearer than their worst case", "corrections": "Corrections by hand",
    }  # fmt: skip
    found: list[Any] = []
    for key, title in titles.items():
        if not f[key]["count"]:
            continue
        by_hand = key == "corrections"
        shown = f[key]["rows"][:10]
        more = f", {len(shown)} of them shown" if f[key]["count"] > len(shown) else ""
        why, *amounts = ("who", "before", "after") if by_hand else ("why", "reserved", "charged")
        table = _plain_table(
            f"{title}: {number(f[key]['count'])}{more}", ("attempt", "model", why, *amounts), tuple(amounts)
        )
        keys = ("before_nano", "after_nano") if by_hand else ("reserved_nano", "cost_nano")
        columns = [_aligned([row[name] for row in shown]) for name in keys]
        for row, *said in zip(shown, *columns, strict=True):
            cause = row["who"] if by_hand else row["code"] or NONE
            table.add_row(*(Text(visible(cell)) for cell in (row["attempt"][:12], row["model"], cause, *said)))
        found.append(Padding(table, (1, 0, 0, 0)))
    return found
