"""How alerts are sent: tried again, given up, sent once, and never at the cost of another channel."""

import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from budget.ledger import ledger
from budget.rebuild import rebuild_if_cold
from db.models import Alert, Delivery, utc_now
from db.session import read
from tests.watch.conftest import Configure, Receiver
from tests.watch.lab import MARKER, calls, make_due, spend, ways
from watch import alerts as watch
from watch.alerts import MOST_TRIES, deliver, look, look_at_objectives


@pytest.fixture(autouse=True)
def _warm(environment: None) -> None:
    assert rebuild_if_cold(ledger(), wait_s=0)


def test_a_receiver_that_fails_twice_gets_exactly_one_accepted_message(webhook: Receiver) -> None:
    webhook.statuses = [500, 500]
    spend("45")
    assert sorted(look()) == ["log", "webhook"]
    assert deliver("webhook") == 0
    assert deliver("webhook") == 0, "it waits before it tries again"
    way = next(way for way in ways() if way.channel == "webhook")
    assert way.due_at is not None and utc_now() + timedelta(seconds=5) < way.due_at < utc_now() + timedelta(seconds=25)
    assert way.error == "the webhook answered 500"
    for _ in range(5):
        make_due()
        look()
        deliver("webhook")
    assert [status for status, *_ in webhook.seen] == [500, 500, 200]
    assert len(webhook.accepted) == 1
    way = next(way for way in ways() if way.channel == "webhook")
    assert (way.tries, way.error, way.due_at) == (3, None, None)
    assert way.sent_at is not None


def test_what_fails_for_good_is_given_up_with_its_error(webhook: Receiver) -> None:
    webhook.statuses = [404] * 100
    spend("45")
    look()
    for _ in range(MOST_TRIES + 5):
        make_due()
        deliver("webhook")
    assert len(webhook.seen) == MOST_TRIES
    way = next(way for way in ways() if way.channel == "webhook")
    assert (way.tries, way.due_at, way.sent_at, way.error) == (MOST_TRIES, None, None, "the webhook answered 404")


def test_waits_grow_with_every_try_up_to_an_hour(webhook: Receiver) -> None:
    webhook.statuses = [500] * 100
    spend("45")
    look()
    waits = []
    for _ in range(MOST_TRIES - 1):
        make_due()
        deliver("webhook")
        due = next(way.due_at for way in ways() if way.channel == "webhook")
        assert due is not None
        waits.append((due - utc_now()).total_seconds())
    for number, wait in enumerate(waits):
        expected = min(3600, 15 * 2**number)
        assert expected * 0.4 < wait <= expected * 1.5


def test_after_a_crash_in_the_moment_of_sending_it_is_sent_again(webhook: Receiver, monkeypatch: Any) -> None:
    spend("45")
    look()

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(watch.alerts, "sent", die)
        with pytest.raises(Killed):
            deliver("webhook")
    assert deliver("webhook") == 0, "its lease is not over"
    make_due()
    assert deliver("webhook") == 1
    first, second = webhook.accepted
    assert first == second


def test_a_hanging_receiver_keeps_no_other_channel_and_no_round_waiting(
    webhook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.statuses = [0]
    spend("45")
    look()
    hanging = threading.Thread(target=deliver, args=("webhook",))
    hanging.start()
    assert webhook.hanging.wait(30)
    with caplog.at_level(logging.WARNING):
        assert deliver("log") == 1
    assert "alert: The daily budget is 90 % used" in caplog.text
    spend("5")
    assert sorted(look()) == ["log", "webhook"]
    assert deliver("log") == 1
    assert hanging.is_alive()
    webhook.over.set()
    hanging.join(30)
    way = next(way for way in ways() if way.channel == "webhook")
    assert (way.tries, way.sent_at) == (1, None)


def test_one_failure_ends_the_round_of_that_channel_only(webhook: Receiver) -> None:
    webhook.statuses = [500]
    spend("50")
    look()
    assert deliver("webhook") == 0
    assert len(webhook.seen) == 1
    assert deliver("webhook") == 1
    assert deliver("log") == 2


def test_a_channel_that_is_not_configured_any_more_is_given_up_in_time(webhook: Receiver, configure: Configure) -> None:
    spend("45")
    look()
    configure(ALERT_WEBHOOK_URL="")
    assert deliver("webhook") == 0
    assert next(way.error for way in ways() if way.channel == "webhook") == "the channel is not configured"


def test_nothing_of_a_job_and_no_secret_is_in_messages_rows_or_logs(
    webhook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.statuses = [500]
    calls(30, ok=False, error=f"the provider said {MARKER}")
    calls(30, processing_time_ms=9000, quality_score=0.1)
    spend("45", user=None)
    with caplog.at_level(logging.DEBUG):
        look_at_objectives()
        look()
        deliver("log")
        deliver("webhook")
        make_due()
        deliver("webhook")
    assert len(webhook.accepted) == 4
    with read() as session:
        rows = [str(vars(row)) for model in (Alert, Delivery) for row in session.scalars(select(model))]
    told = caplog.text + str(webhook.seen) + str(rows)
    for secret in (MARKER, "secret-token", "s3cret"):
        assert secret not in told
