"""Alerts that many raise, hand out and claim at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from db import alerts
from db.alerts import AlertKind, Notice
from db.models import Alert, Delivery
from db.session import read, write

pytestmark = pytest.mark.usefixtures("environment")

NOTICE = Notice(AlertKind.BUDGET, "daily", "2026-11-22", "0.8", "m")


def test_one_row_and_one_claim_however_many_come_at_once() -> None:
    def cross(_: int) -> bool:
        with write() as session:
            return alerts.raise_alert(session, NOTICE)

    def hand_out(_: int) -> int:
        with write() as session:
            return alerts.hand_out(session, ("log", "webhook"))

    def claim(_: int) -> bool:
        with write() as session:
            return alerts.claim(session, "webhook", 60) is not None

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(cross, range(100))) == 1
        assert sum(pool.map(hand_out, range(20))) == 2
        assert sum(pool.map(claim, range(20))) == 1
    with write() as session:
        alerts.clear(session, [NOTICE.key])
    assert not cross(0)
    assert hand_out(0) == 0
    with read() as session:
        assert [row.cleared_at for row in session.scalars(select(Alert))] == [None]
        assert sorted(way.channel for way in session.scalars(select(Delivery))) == ["log", "webhook"]
