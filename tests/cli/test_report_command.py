"""`paymaster report`, in this process."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from cli import report as command
from cli.inputs import InputError
from cli.report import run_report
from tests.watch.days import call, unknown
from watch import report

pytestmark = pytest.mark.usefixtures("environment")
TODAY = report.today()
YESTERDAY = TODAY - timedelta(days=1)


def told(capsys: pytest.CaptureFixture[str], day: str | None = None, form: str | None = None) -> str:
    run_report(day, form, None)
    return capsys.readouterr().out


def test_without_a_day_it_is_yesterday_or_today_where_nothing_is_older(capsys: pytest.CaptureFixture[str]) -> None:
    call(TODAY.isoformat())
    assert json.loads(told(capsys, form="json"))["day"] == TODAY.isoformat()
    call((YESTERDAY - timedelta(days=9)).isoformat())
    assert json.loads(told(capsys, form="json"))["day"] == YESTERDAY.isoformat()


@pytest.mark.parametrize(
    ("day", "day_found"),
    [("today", TODAY), ("yesterday", YESTERDAY), (TODAY.isoformat(), TODAY), ("2024-02-29", "2024-02-29")],
)
def test_a_day_is_named_in_words_or_figures(day: str, day_found: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(told(capsys, day, "json"))["day"] == str(day_found)


@pytest.mark.parametrize("day", ["tomorrow", "2025-02-29", "20251120", "2025-11-2", "2025-W47-4", "", "٢٠٢٥-١١-٢٠"])
def test_what_is_no_day_is_refused_in_one_sentence(day: str) -> None:
    with pytest.raises(InputError, match=r"^DATE: '.*' is no day; give one such as "):
        run_report(day, None, None)


def test_a_day_that_is_yet_to_come_is_refused() -> None:
    tomorrow = TODAY + timedelta(days=1)
    with pytest.raises(InputError, match=f"^DATE: {tomorrow} is yet to come; today is {TODAY}$"):
        run_report(tomorrow.isoformat(), None, None)


@pytest.mark.parametrize(
    ("name", "start"),
    [("x.html", "<!doctype html>"), ("x.JSON", "{"), ("x.csv", "section,key"), ("x.md", "# Daily"), ("x.txt", "Daily")],
)
def test_a_file_is_what_its_suffix_says(
    name: str, start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(YESTERDAY.isoformat())
    run_report("yesterday", None, tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert capsys.readouterr().out == f"The report of {YESTERDAY} is in {tmp_path / name}.\n"


def test_formats_and_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--format: 'pdf' is unknown; known: html, json, csv, md, text$"):
        run_report(None, "pdf", None)
    with pytest.raises(InputError, match=r"^--out: 'x\.doc' says no format by its suffix; add --format"):
        run_report(None, None, tmp_path / "x.doc")
    with pytest.raises(InputError, match=r"^--out: .* cannot be written: No such file or directory$"):
        run_report(None, None, tmp_path / "none" / "x.html")
    run_report(None, "md", tmp_path / "x.doc")
    assert (tmp_path / "x.doc").read_text().startswith("# Daily")


def test_the_terminal_gets_eighty_columns_without_foreign_markup(capsys: pytest.CaptureFixture[str]) -> None:
    day = YESTERDAY.isoformat()
    call(day, user_id="[red]x[/red]", cost_nano=1_234_567_890, reserved_nano=10**10)
    call(day, user_id="\x1b[31m" + "u" * 50, cost_nano=5)
    unknown(day)
    text = told(capsys)
    assert max(map(len, text.splitlines())) <= command.WIDTH
    assert "[red]x[/red]" in text and "\x1b" not in text
    assert "$1.23456789 " in text and "$0.000000005" in text
    assert "Cost not known, charged at their reservations: 1" in text


def test_an_empty_day_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No model was called." in told(capsys, "2024-02-29")
    assert "29 February 2024" in told(capsys, "2024-02-29")
