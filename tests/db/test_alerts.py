"""Alerts and deliveries in SQL: one row each, whoever comes how often."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from db import alerts
from db.alerts import AlertKind, Notice
from db.models import Alert, Delivery, utc_now
from db.session import read, write

pytestmark = pytest.mark.usefixtures("environment")


def notice(**fields: Any) -> Notice:
    row = {"kind": AlertKind.BUDGET, "subject": "daily", "period": "2026-11-22", "threshold": "0.8", "message": "m"}
    return Notice(**{**row, **fields})


def raised(**fields: Any) -> bool:
    with write() as session:
        return alerts.raise_alert(session, notice(**fields))


def rows() -> list[Alert]:
    with read() as session:
        return list(session.scalars(select(Alert).order_by(Alert.id)))


def deliveries() -> list[Delivery]:
    with read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.alert_id, Delivery.channel)))


def handed_out(*channels: str) -> int:
    with write() as session:
        return alerts.hand_out(session, channels)


def claimed(channel: str = "log", lease_s: float = 60) -> tuple[int, int] | None:
    with write() as session:
        found = alerts.claim(session, channel, lease_s)
    return None if found is None else (found[0].id, found[1])


def age(**delta: float) -> None:
    with write() as session:
        past = utc_now() - timedelta(**delta)
        session.execute(update(Alert).values(created_at=past))
        session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=past))


def test_an_alert_is_one_row_with_the_first_message() -> None:
    assert raised(message="first")
    assert not raised(message="second")
    assert [row.message for row in rows()] == ["first"]


@pytest.mark.parametrize(
    "other", [{"kind": AlertKind.P95}, {"subject": "monthly"}, {"period": "2026-11-23"}, {"threshold": "1"}]
)
def test_another_kind_subject_period_or_threshold_is_another_alert(other: dict[str, Any]) -> None:
    assert raised()
    assert raised(**other)
    assert len(rows()) == 2


def test_a_cleared_alert_that_comes_back_is_opened_again_and_not_sent_again() -> None:
    raised()
    handed_out("log")
    with write() as session:
        alerts.clear(session, [notice().key])
    assert rows()[0].cleared_at is not None
    assert not raised()
    assert rows()[0].cleared_at is None
    assert handed_out("log") == 0


def test_only_what_is_named_is_cleared() -> None:
    raised()
    raised(subject="monthly")
    with write() as session:
        alerts.clear(session, [])
        alerts.clear(session, [notice().key, notice(subject="nobody").key])
    assert [row.subject for row in rows() if row.cleared_at is None] == ["monthly"]


def test_what_an_earlier_period_left_open_is_over() -> None:
    for period in ("2026-10", "2026-11", "2026-11-21", "2026-11-22"):
        raised(period=period)
    with write() as session:
        assert alerts.clear_before(session, {"2026-11", "2026-11-22"}) == 2
        assert alerts.clear_before(session, {"2026-11", "2026-11-22"}) == 0
    assert [row.period for row in rows() if row.cleared_at is None] == ["2026-11", "2026-11-22"]


def test_open_alerts_are_found_by_kind_and_period() -> None:
    raised()
    raised(period="2026-11")
    raised(kind=AlertKind.P95)
    with write() as session:
        alerts.clear(session, [notice(period="2026-11").key])
    with read() as session:
        assert alerts.keys(session, {AlertKind.BUDGET}, {"2026-11-22", "2026-11"}, only_open=True) == {notice().key}
        known = alerts.keys(session, {AlertKind.BUDGET}, {"2026-11-22", "2026-11"}, only_open=False)
        assert known == {notice().key, notice(period="2026-11").key}
        assert len(alerts.keys(session, list(AlertKind), {"2026-11-22"}, only_open=True)) == 2


def test_an_alert_is_handed_out_once_to_each_channel() -> None:
    raised()
    assert handed_out("log", "webhook") == 2
    assert handed_out("log", "webhook", "email") == 0
    assert [way.channel for way in deliveries()] == ["log", "webhook"]


def test_what_nobody_handed_out_for_days_is_no_news() -> None:
    raised()
    age(days=3)
    assert handed_out("log") == 0


def test_many_alerts_are_handed_out_bit_by_bit() -> None:
    with write() as session:
        for number in range(450):
            alerts.raise_alert(session, notice(subject=f"user:{number}"))
    assert [handed_out("log", "webhook") for _ in range(4)] == [400, 400, 100, 0]


def test_a_delivery_is_claimed_by_one_until_its_lease_is_over() -> None:
    raised()
    handed_out("log", "webhook")
    alert_id = rows()[0].id
    assert claimed() == (alert_id, 1)
    assert claimed() is None
    assert claimed("webhook") == (alert_id, 1)
    assert claimed("email") is None
    age(seconds=1)
    assert claimed() == (alert_id, 2)


def test_what_is_longest_due_is_claimed_first() -> None:
    raised()
    raised(threshold="1")
    handed_out("log")
    first, second = (row.id for row in rows())
    with write() as session:
        session.execute(
            update(Delivery).where(Delivery.alert_id == second).values(due_at=utc_now() - timedelta(hours=1))
        )
    assert [claimed(), claimed(), claimed()] == [(second, 1), (first, 1), None]


def test_what_is_sent_is_never_claimed_again() -> None:
    raised()
    handed_out("log")
    alert_id, _ = claimed() or (0, 0)
    with write() as session:
        alerts.sent(session, alert_id, "log", None)
    age(hours=1)
    assert claimed() is None
    (way,) = deliveries()
    assert (way.due_at, way.error, way.tries) == (None, None, 1)
    assert way.sent_at is not None


def test_what_failed_is_due_again_then_or_never_and_says_why() -> None:
    raised()
    handed_out("log")
    alert_id, _ = claimed() or (0, 0)
    later = utc_now() + timedelta(minutes=5)
    with write() as session:
        alerts.failed(session, alert_id, "log", "x" * 500, later)
    assert (deliveries()[0].due_at, deliveries()[0].error) == (later, "x" * 200)
    assert claimed() is None
    with write() as session:
        alerts.failed(session, alert_id, "log", "for good", None)
    assert (deliveries()[0].due_at, deliveries()[0].sent_at, deliveries()[0].error) == (None, None, "for good")


def test_a_late_failure_does_not_undo_what_another_has_sent() -> None:
    raised()
    handed_out("log")
    alert_id, _ = claimed() or (0, 0)
    with write() as session:
        alerts.sent(session, alert_id, "log", None)
        alerts.failed(session, alert_id, "log", "too late", utc_now())
    assert (deliveries()[0].due_at, deliveries()[0].error) == (None, None)


def test_channels_with_something_due_are_named() -> None:
    raised()
    handed_out("log", "webhook")
    with read() as session:
        assert sorted(alerts.due_channels(session)) == ["log", "webhook"]
    claimed("log")
    with read() as session:
        assert alerts.due_channels(session) == ["webhook"]


def test_the_latest_come_first_with_their_deliveries() -> None:
    raised()
    raised(threshold="1")
    handed_out("log")
    with write() as session:
        alerts.clear(session, [notice(threshold="1").key])
    with read() as session:
        found = alerts.latest(session, 10, only_open=False)
        assert [(alert.threshold, [way.channel for way in ways]) for alert, ways in found] == [
            ("1", ["log"]), ("0.8", ["log"]),
        ]  # fmt: skip
        assert [alert.threshold for alert, _ in alerts.latest(session, 10, only_open=True)] == ["0.8"]
        assert len(alerts.latest(session, 1, only_open=False)) == 1
