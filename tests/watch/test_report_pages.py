"""The report as a page and in its other formats: exact, escaped, whole in itself."""

import csv
import io
import json
import re
import subprocess
import sys
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from budget.money import format_usd
from db.changes import record
from db.models import AttemptState, JobState
from db.session import write
from tests.watch.days import DAY, call, unknown
from watch import report
from watch.render import FORMS, render
from watch.words import percent, saved, visible

pytestmark = pytest.mark.usefixtures("environment")
HOSTILE = (
    "<script>alert(1)</script>", "'\"><img src=x onerror=y>",
    "{{ f }}", "=1+2", "+1", "-1", "@SUM(A1)", "a|b", "a" * 64,
    "\u202etxt.exe", "\x1b[31mred", "مستخدم", "👩‍👩‍👧", "[red]x[/red]", "`x` *y* [z](http://evil)",
)  # fmt: skip
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether all that was opened was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


def figures(day: str = DAY) -> dict[str, Any]:
    return report.figures_of(date.fromisoformat(day))


@pytest.fixture
def day() -> dict[str, Any]:
    """A day with something of everything, and names that somebody meant badly."""
    for number, name in enumerate(HOSTILE):
        call(user_id=name, api=name, cost_nano=10**number, reserved_nano=2 * 10**number, tokens_used=9, input_tokens=9)
    unknown(job="<b>job</b>")
    call(cost_nano=120, reserved_nano=100)
    call(state=AttemptState.CALLING, job_state=JobState.RUNNING)
    with write() as session:
        record(session, "cost", call(), "$0.09", "$1,200.00", "<b>mallory</b>@host")
    return figures()


def test_the_page_loads_nothing_and_runs_nothing(day: dict[str, Any]) -> None:
    html = render(day, "html")
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use", "a"} & {
        tag for tag, _ in page.elements
    }
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {"src", "href", "xlink:href", "srcset", "action", "data"} & names
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/)", html.replace(visible(HOSTILE[-1]), ""))
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_shows_names_as_they_are_and_no_more(day: dict[str, Any]) -> None:
    page = Page(render(day, "html"))
    for name in HOSTILE:
        assert page.text.count(visible(name)) == 2, name
    assert "<b>mallory</b>@host" in page.text
    assert "\u202e" not in "".join(page.text) and "\x1b" not in "".join(page.text)


def test_every_amount_is_exact_in_every_format(day: dict[str, Any]) -> None:
    spent = day["total"]["cost_nano"]
    assert spent == sum(10**n for n in range(len(HOSTILE))) + 100 + 120 + 10
    told = format_usd(spent)
    html = re.sub("<[^>]+>", "", render(day, "html"))
    assert told in html and told in render(day, "md")
    as_json = json.loads(render(day, "json"))
    assert (as_json["total"]["cost_nano"], as_json["total"]["cost_usd"]) == (spent, f"{told[1:]}".replace(",", ""))
    assert ["total", DAY, "cost_usd", as_json["total"]["cost_usd"]] in [*csv.reader(io.StringIO(render(day, "csv")))]


def test_no_cell_of_the_csv_is_a_formula_and_each_has_its_place(day: dict[str, Any]) -> None:
    head, *lines = csv.reader(io.StringIO(render(day, "csv")))
    assert head == ["section", "key", "metric", "value"]
    assert {len(line) for line in lines} == {4}
    assert not [cell for line in lines for cell in line if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    users = {key for section, key, *_ in lines if section == "user"}
    assert {"'=1+2", "'+1", "'-1", "'@SUM(A1)", "a|b"} <= users
    assert len({tuple(line[:3]) for line in lines}) == len(lines), "a line is found by its first three cells"


def test_the_markdown_has_whole_tables_and_no_foreign_markup(day: dict[str, Any]) -> None:
    text = render(day, "md")
    tables = [block.strip() for block in re.split(r"\n\n+", text) if block.startswith("|")]
    widths = [{len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()} for table in tables]
    assert len(widths) == 10 and all(len(width) == 1 for width in widths), widths
    assert "<" not in text.replace("\\<", "") and "](" not in text.replace("\\](", "")


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_day_and_one_without_limits_are_drawn_too(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAILY_BUDGET_USD", "0")
    monkeypatch.setenv("MONTHLY_BUDGET_USD", "unlimited")
    text = render(figures(), form)
    assert {"html": "No model was called.", "json": '"monthly_usd": null', "csv": "limits,2025-11-20,monthly_usd,\n",
            "md": "$0.00, no limit"}[form] in text  # fmt: skip


def test_the_picture_has_a_bar_a_day_with_its_amount(day: dict[str, Any]) -> None:
    page = Page(render(day, "html"))
    bars = [
        attributes["class"]
        for tag, attributes in page.elements
        if tag == "g" and "bar" in (attributes.get("class") or "").split()
    ]
    assert bars == 2 * (29 * ["bar"] + ["bar now"])
    assert f"20 Nov: {format_usd(day['total']['cost_nano'])}" in page.text


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert (percent(999_999, 1_000_000), percent(5, 5), percent(0, 0), percent(1, 3)) == (
        "99.9 %",
        "100.0 %",
        "–",
        "33.3 %",
    )
    assert (saved(30, 100), saved(250, 100), saved(1, 0)) == ("70.0 %", "−150.0 %", "–")


CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium to look with")
def test_in_a_browser_nothing_overflows_or_is_asked_for(day: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(day, "html"), encoding="utf-8")
    program = """
import json, sys
from playwright.sync_api import sync_playwright
told = []
with sync_playwright() as p:
    browser = p.chromium.launch(executable_path=sys.argv[1], args=["--no-sandbox"])
    for scheme in ("light", "dark"):
        for width in (320, 390, 768, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            asked, said = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            page.on("dialog", lambda dialog: said.append(dialog.message))
            page.goto("file://" + sys.argv[2])
            size = page.evaluate("document.documentElement.scrollWidth")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            told.append([scheme, width, size, len(asked), said, paper])
            page.close()
    browser.close()
print(json.dumps(told))
"""
    done = subprocess.run([sys.executable, "-c", program, str(CHROMIUM), str(page)], capture_output=True, text=True,
                          timeout=150, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    papers = set()
    for scheme, width, size, asked, said, paper in json.loads(done.stdout):
        assert (size, asked, said) == (width, 1, []), (scheme, width)
        papers.add((scheme, paper))
    assert len(papers) == 2 and len({paper for _, paper in papers}) == 2, "light and dark differ"
