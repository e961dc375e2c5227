"""Rounds of reports at once, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from db.models import Report
from db.session import read
from tests.watch.days import DAY, call
from watch import report

pytestmark = pytest.mark.usefixtures("environment")

MIDNIGHT = datetime(2025, 11, 21, tzinfo=UTC).timestamp()


def test_first_rounds_at_once_write_one_report_and_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    call()
    all_have_looked = threading.Barrier(4, timeout=60)
    real = report._figures

    def figures(*given: Any) -> Any:
        found = real(*given)
        all_have_looked.wait()
        return found

    monkeypatch.setattr(report, "_figures", figures)
    with ThreadPoolExecutor(4) as pool:
        rounds = [pool.submit(report.write_due, MIDNIGHT) for _ in range(4)]
        assert [one.result(60) for one in rounds] == [[DAY]] * 4
    with read() as session:
        assert session.scalar(select(func.count()).select_from(Report)) == 1
    assert report.write_due(MIDNIGHT) == []
