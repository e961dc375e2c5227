"""A report's figures as a page, as Markdown, as CSV or as JSON. Money is printed exactly. What others have named is
escaped for where it stands, and shown without characters that cannot be seen."""

import csv
import io
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from budget.money import nano_to_usd
from watch.chart import bars
from watch.words import (
    ago,
    long_day,
    number,
    percent,
    round_usd,
    saved,
    score,
    seconds,
    short_day,
    success,
    usd,
    visible,
)

PAGES = Path(__file__).with_name("pages")
# what a spreadsheet takes for the beginning of a formula
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# what Markdown would take for more than a character
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~&!#$])")

# of a row of any table, in the order of columns
CELLS = ("cost_nano", "reserved_nano", "calls", "calls_succeeded", "calls_failed", "jobs", "jobs_ended",
         "jobs_succeeded", "fallbacks", "p50_ms", "p95_ms", "quality", "input_tokens", "output_tokens")  # fmt: skip
TABLES = {"models": "model", "strategies": "strategy", "apis": "API", "users": "user"}
LISTS = ("open", "unknown", "overruns", "corrections")


def _money(nano: int) -> Markup:
    """An amount with what follows the cents set smaller; a column's tails are equally wide."""
    text = usd(nano)
    whole, _, decimals = text.partition(".")
    return Markup('<span class="usd">{}.{}<i>{}</i></span>').format(whole, decimals[:2], decimals[2:])


def _tail(rows: list[dict[str, Any]]) -> int:
    """The most decimals that any amount of these rows has beyond cents."""
    amounts = [value for row in rows for key, value in row.items() if key.endswith("_nano")]
    return max((len(usd(amount).partition(".")[2]) - 2 for amount in amounts), default=0)


def _permille(part: int, whole: int | None) -> int:
    """How full a bar is, 0 to 1000."""
    return min(1000, part * 1000 // whole) if whole else 0


def _level(alert_percent: Decimal, spent: int, limit: int | None) -> str:
    """How a budget stands: `over`, `near` its alert, or nothing."""
    if limit is None or spent * 100 < limit * alert_percent:
        return ""
    return "over" if spent >= limit else "near"


def _name(text: Any) -> Markup:
    """A name that others gave, kept from turning what is around it."""
    if not text:
        return Markup('<span class="none">not named</span>')
    return Markup("<bdi>{}</bdi>").format(visible(text))


def _commands(text: str) -> Markup:
    """A sentence whose words between backticks are commands."""
    parts = visible(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))


def _markdown(text: Any) -> str:
    return _MARKDOWN.sub(r"\\\1", visible(text)) if text != "" else "not named"


FILTERS = {
    "usd": usd, "money": _money, "tail": _tail, "seconds": seconds, "score": score, "number": number,
    "long_day": long_day, "short_day": short_day, "name": _name, "md": _markdown, "visible": visible, "ago": ago,
    "round_usd": round_usd, "commands": _commands,
}  # fmt: skip


def render(figures: dict[str, Any], form: str) -> str:
    """The report in one of `FORMS`."""
    return FORMS[form](figures)


@cache
def _environment(*, escapes: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=escapes,  # noqa: S701  # Markdown has escapes of its own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= FILTERS
    made.globals |= {"percent": percent, "saved": saved, "success": success, "bars": bars, "permille": _permille}
    return made


def draw(template: str, alert_percent: str, **shown: Any) -> str:
    """A page of the folder `pages`, in which budgets count as near their limit from `alert_percent` on."""
    found = _environment(escapes=template.endswith(".html")).get_template(template)
    return found.render(level=partial(_level, Decimal(alert_percent)), **shown)


def _page(figures: dict[str, Any], template: str) -> str:
    css = Markup((PAGES / "report.css").read_text(encoding="utf-8"))  # noqa: S704  # our own
    return draw(template, figures["alert_percent"], f=figures, css=css, tables=TABLES)


def _html(figures: dict[str, Any]) -> str:
    return _page(figures, "report.html")


def _md(figures: dict[str, Any]) -> str:
    return _page(figures, "report.md")


def _json(figures: dict[str, Any]) -> str:
    return json.dumps(_with_usd(figures), indent=2, ensure_ascii=False) + "\n"


def _with_usd(value: Any) -> Any:
    """Beside every amount in nano-USD the same in USD, as text: a float would not be exact."""
    if isinstance(value, list):
        return [_with_usd(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for key, one in value.items():
        made[key] = _with_usd(one)
        if key.endswith("_nano"):
            made[f"{key[:-5]}_usd"] = _exact(one)
    return made


def _csv(figures: dict[str, Any]) -> str:
    """One table: section, key, metric, value. Amounts are USD with nine decimals."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(("section", "key", "metric", "value"))
    for section, key, metrics in _sections(figures):
        for metric, value in metrics.items():
            if metric.endswith("_nano"):
                writer.writerow((section, _cell(key), f"{metric[:-5]}_usd", _exact(value)))
            else:
                writer.writerow((section, _cell(key), metric, _cell(value) if isinstance(value, str) else value))
    return made.getvalue()


def _sections(f: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    yield "report", f["day"], {name: f[name] for name in ("zone", "hours", "ended", "written_at", "month_nano")}
    yield "limits", f["day"], f["limits"]
    yield "total", f["day"], {name: f["total"][name] for name in (*CELLS, "calls_open", "open_nano")}
    for table, section in TABLES.items():
        for row in f[table]["rows"]:
            yield section.lower(), row["name"], {name: row[name] for name in CELLS}
        yield f"other {table}", f[table]["others"], {"cost_nano": f[table]["others_nano"]}
    yield "saving", "", {name: f["saving"][name] for name in ("cost_nano", "legacy_nano", "left_out_nano")}
    for row in f["saving"]["rows"]:
        yield "saving", row["kind"], {name: value for name, value in row.items() if name != "kind"}
    for row in f["days"]:
        yield "day", row["day"], {"cost_nano": row["cost_nano"]}
    for name in LISTS:
        yield name, "", {"count": f[name]["count"]}
        for row in f[name]["rows"]:
            yield name, row["attempt"], {key: value for key, value in row.items() if key != "attempt"}


def _exact(nano: int | None) -> str | None:
    return None if nano is None else f"{nano_to_usd(nano):f}"


def _cell(text: Any) -> str:
    """A text that no spreadsheet computes."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(FORMULA) or str(text).startswith(FORMULA) else shown


FORMS = {"html": _html, "json": _json, "csv": _csv, "md": _md}
