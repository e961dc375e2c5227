"""The picture of the last days: bars by pygal, as SVG that is part of a page. Of pygal's output only the shapes are
taken: its script, its style and its credits stay out, and the page's own style colours it."""

import sys
from typing import Any

import pygal
from markupsafe import Markup
from pygal.etree import etree

from budget.money import format_usd
from watch.words import short_day

# It finds pygal's plugins, of which we use none, and lets every import after it warn.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

# lines across, at most
LINES = 4


def bars(days: list[dict[str, Any]], *, width: int, height: int, every: int) -> Markup:
    """One bar a day, the last one marked, its amount as its title; every so many days, the last among them, have their
    date below. Sizes in the SVG's own units."""
    top = max(day["cost_nano"] for day in days)
    lines = _lines(top)
    chart = pygal.Bar(
        width=width, height=height, margin=4, margin_right=12, spacing=6, show_legend=False, js=(), no_prefix=True,
        truncate_label=-1,
        range=(0, lines[-1] or 1), y_labels=[{"value": line, "label": format_usd(line)} for line in lines],
    )  # fmt: skip
    last = len(days) - 1
    chart.x_labels = ["" if (last - n) % every else short_day(day["day"]) for n, day in enumerate(days)]
    chart.add("", [day["cost_nano"] for day in days])
    root = chart.render_tree()
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag in ("defs", "desc", "title") or not isinstance(child.tag, str):
                parent.remove(child)
    shapes = [node for node in root.iter() if node.get("class") == "bar"]
    for n, (shape, day) in enumerate(zip(shapes, days, strict=True)):
        title = etree.SubElement(shape, "title")
        title.text = f"{short_day(day['day'])}: {format_usd(day['cost_nano'])}"
        shape.set("class", "bar now" if n == last else "bar")
    root.attrib.pop("id", None)
    root.set("role", "img")
    root.set("aria-label", "What each of the last days cost")
    return Markup(etree.tostring(root, encoding="unicode"))  # noqa: S704  # shapes, and dates and amounts as text


def _lines(top: int) -> list[int]:
    """Round amounts from nothing up to `top` or just above, a few of them."""
    step, factor = 1, 0
    while top > step * LINES:
        factor += 1
        step = (1, 2, 5)[factor % 3] * 10 ** (factor // 3)
    return [step * n for n in range(-(-top // step) + 1)]
