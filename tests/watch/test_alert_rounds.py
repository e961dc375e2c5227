"""The rounds that raise alerts and send them, on a real ledger, real SQL and a real receiver."""

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from sqlalchemy import event, insert, select, update

from budget.ledger import Ledger, ledger
from budget.limits import set_limit
from budget.money import usd_to_nano
from budget.rebuild import rebuild_if_cold
from db.models import Alert, Attempt, AttemptState, Delivery, Job, utc_now
from db.session import engine, read, write
from tests.watch.conftest import Configure, Receiver
from watch import alerts as watch
from watch.alerts import MOST_TRIES, deliver, look, look_at_objectives

MARKER = "a-secret-posting-of-somebody"


@pytest.fixture(autouse=True)
def _warm(environment: None) -> None:
    assert rebuild_if_cold(ledger(), wait_s=0)


def alerts() -> list[tuple[str, str, str]]:
    with read() as session:
        return [(row.kind, row.subject, row.threshold) for row in session.scalars(select(Alert).order_by(Alert.id))]


def opened() -> list[str]:
    with read() as session:
        return list(session.scalars(select(Alert.kind).where(Alert.cleared_at.is_(None)).order_by(Alert.kind)))


def ways() -> list[Delivery]:
    with read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.alert_id, Delivery.channel)))


def make_due() -> None:
    with write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=past))


def calls(
    count: int, *, model: str = "gpt-4o", ok: bool = True, user: str | None = None, ago_s: float = 5, **fields: Any
) -> None:
    """Calls that have ended, in SQL only."""
    settled = utc_now() - timedelta(seconds=ago_s)
    row = {
        "number": 1, "part": 0, "model_name": model, "provider": "p", "task_type": "parse", "strategy": "balanced",
        "reason": "r", "budget_day": "2026-11-22", "budget_month": "2026-11", "reserved_nano": 1, "cost_nano": 1,
        "state": AttemptState.SUCCEEDED if ok else AttemptState.FAILED, "success": ok, "user_id": user,
        "processing_time_ms": 100, "quality_score": 0.9 if ok else None, "settled_at": settled, "created_at": settled,
        **fields,
    }  # fmt: skip
    ids = [uuid4().hex for _ in range(count)]
    with write() as session:
        job = {"kind": "parse", "queue": "parse", "payload": {"job_description": MARKER}}
        session.execute(insert(Job), [{"id": one, **job} for one in ids])
        session.execute(insert(Attempt), [{"id": one, "job_id": one, **row} for one in ids])


def spend(usd: str, user: str | None = None) -> None:
    """Spend in the ledger, and show the user's call in SQL."""
    amount, attempt = usd_to_nano(usd), uuid4().hex
    held = ledger().reserve(attempt, amount, job_id="x", user_id=user, job_cap=None, lease_s=600)
    ledger().settle(attempt, held.scope_keys, amount)
    if user is not None:
        calls(1, user=user)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_budget_alerts_at_each_threshold_once_however_often_it_is_looked_at() -> None:
    spend("39.99")
    look()
    assert alerts() == []
    spend("0.01")
    look()
    look()
    assert alerts() == [("budget", "daily", "0.8")]
    spend("10")
    look()
    look()
    assert alerts() == [("budget", "daily", "0.8"), ("budget", "daily", "1")]


def test_what_is_only_reserved_raises_nothing() -> None:
    ledger().reserve("a", usd_to_nano("45"), job_id="x", user_id=None, job_cap=None, lease_s=600)
    look()
    assert alerts() == []


def test_thresholds_come_from_the_environment(configure: Configure) -> None:
    configure(COST_ALERT_THRESHOLD="0.50", COST_ALERT_THRESHOLDS="0.25, 0.9")
    spend("30")
    look()
    assert alerts() == [("budget", "daily", "0.25"), ("budget", "daily", "0.5")]
    spend("20")
    look()
    assert [threshold for *_, threshold in alerts()] == ["0.25", "0.5", "0.9", "1"]


def test_the_limits_that_count_are_those_in_force() -> None:
    set_limit("daily", "10", "me")
    set_limit("monthly", "9", "me")
    spend("8")
    look()
    assert sorted(alerts()) == [("budget", "daily", "0.8"), ("budget", "monthly", "0.8")]
    set_limit("daily", "100", "me")
    spend("1")
    look()
    assert sorted(alerts()) == [
        ("budget", "daily", "0.8"), ("budget", "monthly", "0.8"), ("budget", "monthly", "1"),
    ]  # fmt: skip


def test_users_alert_on_their_own() -> None:
    spend("4", user="42")
    spend("3.99", user="43")
    look()
    assert alerts() == [("budget", "user:42", "0.8")]


def test_only_users_with_calls_since_the_last_round_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Ledger.usage_of_users
    monkeypatch.setattr(Ledger, "usage_of_users", lambda self, ids: asked.extend(ids) or real(self, ids))
    look()
    calls(3, user="old", ago_s=200)
    calls(3, user="new", ago_s=1)
    calls(1, user=None, ago_s=1)
    look()
    assert asked == ["new"]


def test_ten_thousand_users_take_few_round_trips_and_no_write_where_nothing_is_new() -> None:
    day = ledger().periods().day
    with ledger().client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.hset(f"{{paymaster}}:user:{day}:u{number}", mapping={"spent": usd_to_nano("4.5") if number < 3 else 1})
        pipe.execute()
    settled = utc_now()
    ids = [f"u{number}" for number in range(10_000)]
    row = {
        "number": 1, "part": 0, "model_name": "m", "provider": "p", "task_type": "parse", "strategy": "balanced",
        "reason": "r", "budget_day": day, "budget_month": day[:7], "reserved_nano": 1, "cost_nano": 1,
        "state": AttemptState.SUCCEEDED, "success": True, "settled_at": settled,
    }  # fmt: skip
    with write() as session:
        session.execute(insert(Job), [{"id": one, "kind": "parse", "queue": "parse", "payload": {}} for one in ids])
        session.execute(insert(Attempt), [{"id": one, "job_id": one, "user_id": one, **row} for one in ids])
    look()
    assert sorted(subject for _, subject, _ in alerts()) == ["user:u0", "user:u1", "user:u2"]
    inserted: list[str] = []
    event.listen(engine(), "before_cursor_execute",
                 lambda _c, _u, text, *_: inserted.append(text) if "INSERT INTO alerts" in text else None)  # fmt: skip
    look()
    assert inserted == []


def test_a_cold_ledger_raises_nothing_harms_nothing_and_is_made_up_for(redis_server: str, webhook: Receiver) -> None:
    spend("4.5", user="42")
    with redis.Redis.from_url(redis_server) as client:
        held = client.dump("{paymaster}:warm")
        client.delete("{paymaster}:warm")
        look()
        assert alerts() == []
        client.restore("{paymaster}:warm", 0, held)
    look()
    assert alerts() == [("budget", "user:42", "0.8")]


def test_a_period_that_is_over_leaves_nothing_open() -> None:
    spend("45")
    look()
    with write() as session:
        session.execute(update(Alert).values(period="2020-01-01"))
    look_at_objectives()
    assert opened() == []
    look()
    assert opened() == ["budget"]


# --- service objectives ----------------------------------------------------------------------------------------------


def test_a_slow_model_alerts_above_the_threshold_only() -> None:
    calls(19, processing_time_ms=5000)
    calls(1, processing_time_ms=60_000)
    look_at_objectives()
    assert alerts() == []
    calls(1, processing_time_ms=60_000)
    look_at_objectives()
    assert alerts() == [("p95", "gpt-4o", "5000")]


def test_too_few_calls_say_nothing() -> None:
    calls(19, processing_time_ms=60_000, quality_score=0.1)
    calls(19, ok=False, model="gpt-4o-mini")
    look_at_objectives()
    assert alerts() == []


def test_a_failing_model_alerts_above_the_share_only() -> None:
    calls(95)
    calls(5, ok=False)
    look_at_objectives()
    assert alerts() == []
    calls(1, ok=False)
    look_at_objectives()
    assert alerts() == [("failures", "gpt-4o", "0.05")]


@pytest.mark.parametrize(
    "code",
    ["runner_lost", "shutdown", "late_record", "not_sent", "context_length_exceeded", "content_policy_violation"],
)
def test_what_is_not_the_models_fault_is_no_failure(code: str) -> None:
    calls(20)
    calls(30, ok=False, error_code=code)
    look_at_objectives()
    assert alerts() == []


def test_poor_answers_alert_by_strategy() -> None:
    calls(20, quality_score=0.79, strategy="cost_optimized")
    calls(20, quality_score=0.81)
    look_at_objectives()
    assert alerts() == [("quality", "cost_optimized", "0.8")]


def test_answers_without_a_score_or_a_time_do_not_count() -> None:
    calls(30, quality_score=None, processing_time_ms=None)
    look_at_objectives()
    assert alerts() == []


def test_calls_before_the_window_do_not_count() -> None:
    calls(50, ok=False, ago_s=1000)
    look_at_objectives()
    assert alerts() == []


def test_thresholds_and_window_come_from_the_environment(configure: Configure) -> None:
    configure(ALERT_P95_MS="90", ALERT_FAILURE_SHARE="0.5", ALERT_QUALITY="0.95", ALERT_MIN_SAMPLES="2",
              ALERT_WINDOW_S="60")  # fmt: skip
    calls(50, ok=False, ago_s=70)
    calls(2)
    calls(2, ok=False)
    look_at_objectives()
    assert alerts() == [("p95", "gpt-4o", "90"), ("quality", "balanced", "0.95")]


def test_an_alert_clears_itself_and_comes_back_without_a_second_message(webhook: Receiver) -> None:
    calls(20, processing_time_ms=6000)
    look_at_objectives()
    look()
    deliver("webhook")
    assert opened() == ["p95"]
    calls(1000, processing_time_ms=100)
    assert look_at_objectives() == {"raised": 0, "cleared": 1, "over": 0}
    assert opened() == []
    assert look_at_objectives()["cleared"] == 0
    calls(1000, processing_time_ms=6000)
    assert look_at_objectives()["raised"] == 0
    assert opened() == ["p95"]
    look()
    deliver("webhook")
    assert len(webhook.accepted) == 1


def test_too_few_calls_clear_nothing(configure: Configure) -> None:
    configure(ALERT_WINDOW_S="60")
    calls(20, ok=False)
    look_at_objectives()
    with write() as session:
        session.execute(update(Attempt).values(settled_at=utc_now() - timedelta(seconds=90)))
    calls(5)
    look_at_objectives()
    assert opened() == ["failures"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_period_is_the_day_of_the_budgets_zone(zone: str, configure: Configure) -> None:
    from zoneinfo import ZoneInfo

    configure(BUDGET_TIMEZONE=zone)
    before = datetime.now(UTC).astimezone(ZoneInfo(zone)).date().isoformat()
    calls(20, ok=False)
    look_at_objectives()
    after = datetime.now(UTC).astimezone(ZoneInfo(zone)).date().isoformat()
    with read() as session:
        assert set(session.scalars(select(Alert.period))) <= {before, after}
    assert opened() == ["failures"]


# --- deliveries ------------------------------------------------------------------------------------------------------


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
