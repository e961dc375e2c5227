"""That the benches work: their short forms give the figures that the page shows. No times are asserted."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.bench import Aim, Bench, Picture, Table
from benchmarks.table import BENCHES

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(600)  # servers and workers are started, on machines that may be busy
SHORT = [bench for bench in BENCHES if bench.in_tests]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def numbers(figures: Any) -> Iterator[float]:
    if isinstance(figures, dict):
        for value in figures.values():
            yield from numbers(value)
    elif isinstance(figures, int | float):
        yield figures


@pytest.mark.parametrize("bench", SHORT, ids=[bench.name for bench in SHORT])
def test_the_short_form_gives_figures_of_which_the_page_shows_some(bench: Bench) -> None:
    done = run(f"benchmarks.{bench.name}", "--short")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [*numbers(figures)]
    assert all(number >= 0 for number in numbers(figures))
    rows = [line.split("|") for table in bench.tables for line in page.shown(table, figures) if line]
    assert len(rows) > 2, "no table of the page finds its figures"
    assert not [row for row in rows if row[2].strip() == "–"]


def test_a_bench_of_an_unknown_name_is_refused_with_the_known_ones() -> None:
    done = run("benchmarks", "overheat")
    assert done.returncode == 2
    assert "no such bench: overheat; there are overhead," in done.stderr


def test_a_missed_aim_stays_in_the_page_and_says_so() -> None:
    aim, least = Aim("ours to theirs", "a/ratio", 0.5), Aim("in flight", "a/held", 500, at_least=True)
    figures = {"a": {"ratio": 0.75, "held": 500}}
    assert page.told(aim, figures) == "- ours to theirs: at most 0.5, is 0.75: **missed**"
    assert page.told(least, figures) == "- in flight: at least 500, is 500: holds"
    assert page.told(aim, {}) == "- ours to theirs: at most 0.5, is –: not measured"


def test_a_table_leaves_out_what_was_not_measured() -> None:
    table = Table((("ms", "ms"), ("exact", "exact")), (("ours", "0 ms/ours"), ("theirs", "0 ms/theirs")), "0 ms")
    lines = [*page.shown(table, {"0 ms": {"ours": {"ms": 1234.5, "exact": True}}})]
    assert lines == ["| 0 ms | ms | exact |", "| --- | ---: | ---: |", "| ours | 1,234 | yes |", ""]
    assert [*page.flat({"a": {"b": 2, "c": [1, 2]}, "d": ["words"]})] == [["a, b", "2"], ["a, c", "1 2"]]


def test_a_picture_has_no_script_and_names_every_bar(tmp_path: Path) -> None:
    picture = Picture("Milliseconds", (("ours", "ours"), ("theirs", "theirs"), ("nobody", "nobody")))
    assert page.draw(picture, {"ours": 3.5, "theirs": 14.8}, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<script" not in drawn
    assert all(text in drawn for text in ("Milliseconds", "ours", "theirs", "3.5", "14.8"))
    assert "nobody" not in drawn
    assert not page.draw(picture, {}, tmp_path / "b.svg")


def test_the_page_is_that_of_the_kept_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.write()
    assert (tmp_path / "benchmarks.md").read_text() == (ROOT / "docs" / "benchmarks.md").read_text(), (
        "python -m benchmarks --page"
    )
