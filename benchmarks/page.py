"""docs/benchmarks.md and its pictures, from benchmarks/results.json."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

import pygal
from pygal.etree import etree
from pygal.style import Style

from benchmarks.bench import Aim, Bench, Picture, Table
from benchmarks.table import BENCHES

# It finds pygal's plugins, of which we use none, and lets every import after it warn.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
DOCS = ROOT / "docs"
OURS, THEIRS, TEXT = "#2f81f7", "#8b949e", "#7d8590"  # to be read on white and on black

HEAD = """# What it costs, beside what people would use instead

Made by `make bench` from [benchmarks/results.json](../benchmarks/results.json); `make bench BENCH="overhead tiers"`
runs some of it again, `make bench BENCH=soak` what takes half an hour. Providers are simulated, over real HTTP. Each
section ends with what was run, where, and how busy the machine was before: times and rates of a busy machine are those
of its neighbours too, ratios and CPU less so. An aim that is missed stays here.
"""


fill = TextWrapper(width=120, break_long_words=False, break_on_hyphens=False).fill


def at(figures: Any, path: str) -> Any:
    """The figure or the dict that a path leads to; None if there is none."""
    for key in path.split("/") if path else ():
        if not isinstance(figures, dict) or key not in figures:
            return None
        figures = figures[key]
    return figures


def written(value: Any) -> str:
    """A figure as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.1f}"
    return "–" if value is None else str(value)


def lines_of(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def shown(table: Table, figures: dict[str, Any]) -> Iterator[str]:
    """One table; without rows of its own, a row for each key of the dict that `first` names."""
    named = table.rows or tuple((key, f"{table.first}/{key}") for key in at(figures, table.first) or ())
    rows = [
        [label, *(written((at(figures, path) or {}).get(key)) for _, key in table.columns)]
        for label, path in named
        if at(figures, path) is not None
    ]
    if rows:
        yield from lines_of([table.first, *(heading for heading, _ in table.columns)], rows)


def flat(figures: Any, path: str = "") -> Iterator[list[str]]:
    """All figures, each with the keys that lead to it."""
    if isinstance(figures, dict):
        for key, value in figures.items():
            yield from flat(value, f"{path}, {key}" if path else str(key))
    elif not isinstance(figures, list) or all(isinstance(one, (int, float)) for one in figures):
        yield [path, " ".join(map(written, figures)) if isinstance(figures, list) else written(figures)]


def holds(aim: Aim, figures: dict[str, Any]) -> bool | None:
    """Whether the figure is as aimed at; None if it was not measured."""
    value = at(figures, aim.path)
    if value is None:
        return None
    return bool(value >= aim.limit if aim.at_least else value <= aim.limit)


def told(aim: Aim, figures: dict[str, Any]) -> str:
    """A line about it."""
    verdict = {True: "holds", False: "**missed**", None: "not measured"}[holds(aim, figures)]
    sign = "at least" if aim.at_least else "at most"
    return f"- {aim.text}: {sign} {written(aim.limit)}, is {written(at(figures, aim.path))}: {verdict}"


def draw(picture: Picture, figures: dict[str, Any], file: Path) -> bool:
    """Write a picture as SVG, without script; False if there is nothing to show."""
    bars = [(label, at(figures, path)) for label, path in reversed(picture.bars)]
    bars = [(label, value) for label, value in bars if value is not None]
    if not bars:
        return False
    style = Style(
        background="transparent", plot_background="transparent", foreground=TEXT, foreground_strong=TEXT,
        foreground_subtle=TEXT, colors=(THEIRS,), font_family="sans-serif", label_font_size=13,
        major_label_font_size=13, title_font_size=14,
        opacity="1", opacity_hover="1",
    )  # fmt: skip
    chart = pygal.HorizontalBar(
        title=picture.title, style=style, width=760, height=90 + 42 * len(bars), show_legend=False, js=(),
        no_prefix=True, show_x_labels=False, show_x_guides=False,
        show_y_guides=False,        formatter=written, truncate_label=-1, spacing=8, margin_right=60,
        range=(0, max(value for _, value in bars)),
    )  # fmt: skip
    chart.x_labels = [f"{label}: {written(value)}" for label, value in bars]
    chart.add("", [{"value": value, "color": OURS if label == "ours" else THEIRS} for label, value in bars])
    root = chart.render_tree()
    for parent in [*root.iter()]:
        for child in [*parent]:
            if not isinstance(child.tag, str) or child.tag in ("script", "desc"):
                parent.remove(child)
    root.attrib.pop("id", None)
    root.set("role", "img")
    root.set("aria-label", picture.title)
    file.write_text(etree.tostring(root, encoding="unicode") + "\n")
    return True


def section(bench: Bench, entry: dict[str, Any]) -> Iterator[str]:
    """What one bench found."""
    figures = entry["figures"]
    yield from (f"## {bench.title}", "", fill(bench.what), "")
    for table in bench.tables:
        yield from shown(table, figures)
    if not bench.tables:
        yield from lines_of(["", ""], [*flat(figures)])
    for number, picture in enumerate(bench.pictures, start=1):
        name = f"benchmarks-{bench.name}-{number}.svg"
        if draw(picture, figures, DOCS / name):
            yield from (f"![{picture.title}]({name})", "")
    if bench.aims:
        yield from ("Aims:", "", *(told(aim, figures) for aim in bench.aims), "")
    for words in (bench.said, figures.get("note")):
        if words:
            yield from (fill(words), "")
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    yield (
        f"<sub>`{entry['command']}`, {entry['at']}, commit {entry['commit']}; "
        f"{entry['machine']}, load {entry['load']} before; {versions}</sub>"
    )
    yield ""


def write() -> None:
    """The page of all that has been measured."""
    results = json.loads(RESULTS.read_text())
    lines = [HEAD]
    for bench in BENCHES:
        if bench.name in results:
            lines += section(bench, results[bench.name])
    missing = [bench.title for bench in BENCHES if bench.name not in results]
    if missing:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    (DOCS / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")
