"""The rounds that raise alerts, on a real ledger and real SQL."""

from datetime import UTC, datetime, timedelta

import pytest
import redis
from sqlalchemy import delete, event, insert, select, update

from budget.ledger import Ledger, ledger
from budget.limits import set_limit
from budget.money import usd_to_nano
from budget.periods import periods_at
from budget.rebuild import rebuild_if_cold
from db.models import Alert, Attempt, AttemptState, CostBasis, Job, utc_now
from db.session import engine, read, write
from tests.watch.conftest import Configure, Receiver
from tests.watch.lab import alerts, calls, opened, spend
from watch.alerts import deliver, look, look_at_objectives


@pytest.fixture(autouse=True)
def _warm(environment: None) -> None:
    assert rebuild_if_cold(ledger(), wait_s=0)


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


def earlier_today() -> datetime:
    """An hour ago, but no other day: calls are settled on the day that pays, or a moment after it."""
    now = utc_now()
    return max(now - timedelta(hours=1), now.replace(hour=0, minute=0, second=0, microsecond=0))


def test_users_are_looked_at_again_when_their_limit_is_lowered() -> None:
    spend("1", user="42")
    look()
    with write() as session:
        session.execute(update(Attempt).values(settled_at=earlier_today()))
    look()
    assert alerts() == []
    set_limit("user", "1.25", "me")
    look()
    assert alerts() == [("budget", "user:42", "0.8")]


def test_users_are_looked_at_again_by_a_worker_with_another_environment(configure: Configure) -> None:
    spend("1", user="42")
    look()
    with write() as session:
        session.execute(update(Attempt).values(settled_at=earlier_today()))
    configure(COST_ALERT_THRESHOLD="0.2")
    look()
    assert alerts() == [("budget", "user:42", "0.2")]


def test_what_is_spent_in_the_last_seconds_of_a_day_is_seen_after_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    spend("40")
    spend("4.5", user="42")
    spent = ledger().periods()
    tomorrow = periods_at(spent.day_end, UTC)
    monkeypatch.setattr(Ledger, "periods", lambda _: tomorrow)
    monkeypatch.setattr("watch.alerts.time.time", lambda: spent.day_end + 9.0)
    look()
    known = sorted(alerts())
    assert ("budget", "daily", "0.8") in known and ("budget", "user:42", "0.8") in known
    with read() as session:
        assert set(session.scalars(select(Alert.period).where(Alert.subject != "monthly"))) == {spent.day}
    with write() as session:
        session.execute(update(Alert).values(cleared_at=utc_now()))
    look()
    assert (sorted(alerts()), opened()) == (known, []), "what is over is not opened again"
    monkeypatch.setattr("watch.alerts.time.time", lambda: spent.day_end + 3600.0)
    with write() as session:
        session.execute(delete(Alert))
    look()
    assert alerts() == []


def test_users_alert_on_their_own() -> None:
    spend("4", user="42")
    spend("3.99", user="43")
    look()
    assert alerts() == [("budget", "user:42", "0.8")]


def test_only_users_with_calls_since_the_last_round_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Ledger.usage_of_users
    monkeypatch.setattr(Ledger, "usage_of_users", lambda self, ids, day: asked.extend(ids) or real(self, ids, day))
    look()
    calls(3, user="old", ago_s=2000)
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


def test_answers_that_are_just_good_enough_raise_nothing() -> None:
    calls(46, quality_score=0.8)
    look_at_objectives()
    assert alerts() == []


def test_old_calls_whose_cost_is_put_right_by_hand_are_not_new_ones() -> None:
    calls(20)
    calls(30, ok=False, cost_basis=CostBasis.BY_HAND, created_at=utc_now() - timedelta(days=3))
    calls(30, quality_score=0.1, cost_basis=CostBasis.BY_HAND, created_at=utc_now() - timedelta(days=3))
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
