"""The figures of the daily cost report, and when it is written."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from db import rounds
from db.changes import record
from db.models import Attempt, AttemptState, CostBasis, DailyCost, Job, JobState, Report, Round, utc_now
from db.once import once_per_environment
from db.session import read, write
from tests.watch.days import DAY, NOON, call, unknown
from watch import report
from watch.rollup import roll_up

pytestmark = pytest.mark.usefixtures("environment")
MIDNIGHT = datetime(2025, 11, 21, tzinfo=UTC).timestamp()


def figures(day: str = DAY) -> dict[str, Any]:
    return report.figures_of(date.fromisoformat(day))


def rows(table: str, *keys: str, day: str = DAY) -> dict[str, Any]:
    return {row["name"]: tuple(row[key] for key in keys) for row in figures(day)[table]["rows"]}


def test_a_day_is_added_up_by_model_strategy_api_and_user() -> None:
    call(cost_nano=10, user_id="1", api="keywords")
    call(cost_nano=20, user_id="2", api="keywords", strategy="legacy")
    call(cost_nano=30, user_id="2", model_name="gpt-4o-mini")
    call(cost_nano=999, day="2025-11-19")
    call(cost_nano=999, day="2025-11-21")
    assert rows("models", "cost_nano", "jobs") == {"gpt-4o": (30, 2), "gpt-4o-mini": (30, 1)}
    assert rows("strategies", "cost_nano") == {"balanced": (40,), "legacy": (20,)}
    assert rows("apis", "cost_nano") == {"keywords": (30,), "": (30,)}
    assert rows("users", "cost_nano") == {"2": (50,), "1": (10,)}
    assert [row["name"] for row in figures()["users"]["rows"]] == ["2", "1"], "dearest first"


def test_jobs_count_once_and_calls_each() -> None:
    call(job="a", state=AttemptState.FAILED, cost_nano=0, cost_basis=CostBasis.NOT_BILLED, error_code="http_503")
    call(job="a", number=2, reason="fallback_after_http_503", model_name="gpt-4o-mini")
    call(job="b", job_state=JobState.FAILED, state=AttemptState.FAILED, error_code="invalid_answer")
    call(job="c", job_state=JobState.RUNNING, state=AttemptState.CALLING, reserved_nano=70)
    unknown(job="d", error_code="runner_lost")
    total = figures()["total"]
    assert [total[key] for key in ("jobs", "jobs_ended", "jobs_succeeded", "fallbacks")] == [4, 3, 1, 1]
    assert [total[key] for key in ("calls", "calls_open", "calls_succeeded", "calls_failed")] == [5, 1, 1, 2], (
        "a lost worker says nothing of the model"
    )
    assert [total[key] for key in ("cost_nano", "reserved_nano", "open_nano")] == [120, 400, 70]
    assert figures()["open_jobs"] == 1
    assert rows("models", "fallbacks", "calls_failed") == {"gpt-4o": (0, 2), "gpt-4o-mini": (1, 0)}


@pytest.mark.parametrize(
    ("count", "p50", "p95"), [(1, 10, 10), (2, 10, 20), (19, 100, 190), (20, 100, 190), (21, 110, 200)]
)
def test_percentiles_are_by_nearest_rank_of_successful_calls(count: int, p50: int, p95: int) -> None:
    for place in range(count):
        call(processing_time_ms=10 * (place + 1))
    call(processing_time_ms=10**6, state=AttemptState.FAILED)
    call(processing_time_ms=None, quality_score=None)
    call(processing_time_ms=7, quality_score=0.5, model_name="gpt-4o-mini")
    assert rows("models", "p50_ms", "p95_ms", "quality") == {
        "gpt-4o": (p50, p95, 0.9), "gpt-4o-mini": (7, 7, 0.5),
    }  # fmt: skip


def test_every_table_adds_up_to_what_the_attempts_cost() -> None:
    for number in range(60):
        call(cost_nano=7**number % 1_000_003, user_id=f"u{number % 45}" if number % 9 else None,
             api=f"api{number % 30}", model_name=f"m{number % 25}", strategy=f"s{number % 3}")  # fmt: skip
    with read() as session:
        spent = sum(attempt.cost_nano for attempt in session.query(Attempt))
    found = figures()
    assert found["total"]["cost_nano"] == spent
    for name in report.TABLES:
        table = found[name]
        assert sum(row["cost_nano"] for row in table["rows"]) + table["others_nano"] == spent
        assert len(table["rows"]) <= report.TOP
    assert (found["users"]["others"], found["models"]["others"], found["strategies"]["others"]) == (21, 5, 0)


def test_the_saving_prices_the_same_tokens_on_the_models_of_legacy() -> None:
    tokens = {"tokens_used": 3000, "input_tokens": 2000, "output_tokens": 1000, "cached_tokens": 500}
    call(cost_nano=15_000_000, **tokens)
    call(cost_nano=15_000_000, **tokens, cost_basis=CostBasis.BY_HAND)
    call(cost_nano=20_000_000, **tokens, task_type="generate")
    call(cost_nano=260, task_type="embed", tokens_used=1, input_tokens=1)
    unknown(cost_nano=5_000_000)
    # gpt-3.5-turbo 0.50 / 1.50, gpt-4 30 / 60, text-embedding-3-small 0.02 USD per million tokens
    parse, generate, embed = 2 * (2000 * 500 + 1000 * 1500), 2000 * 30_000 + 1000 * 60_000, 20
    saving = figures()["saving"]
    assert {row["kind"]: (row["cost_nano"], row["legacy_nano"]) for row in saving["rows"]} == {
        "parse": (30_000_000, parse), "generate": (20_000_000, generate), "embed": (260, embed),
    }  # fmt: skip
    assert saving["cost_nano"] == 50_000_260
    assert saving["legacy_nano"] == parse + generate + embed
    assert saving["left_out_nano"] == 5_000_000


def test_what_is_odd_is_listed() -> None:
    lost = unknown(cost_nano=40, reserved_nano=40)
    over = call(cost_nano=120, reserved_nano=100)
    waiting = call(state=AttemptState.CALLING, job_state=JobState.RUNNING)
    by_hand = call(cost_nano=1_200_000_000_000, reserved_nano=2 * 10**12, cost_basis=CostBasis.BY_HAND)
    with write() as session:
        record(session, "cost", by_hand, "$0.09", "$1,200.00", "ann@host")
        record(session, "cost", call("2025-11-19"), "$0.09", "$0.01", "ann@host")
        record(session, "limit", "daily", None, "1", "ann@host")
    found = figures()
    assert {name: [row["attempt"] for row in found[name]["rows"]] for name in (*report.LISTS, "corrections")} == {
        "open": [waiting], "unknown": [lost], "overruns": [over], "corrections": [by_hand],
    }  # fmt: skip
    (row,) = found["corrections"]["rows"]
    assert (row["before_nano"], row["after_nano"], row["who"]) == (90_000_000, 1_200_000_000_000, "ann@host")


def test_long_lists_are_cut_to_the_dearest_and_say_how_many_there_are() -> None:
    for cost in range(report.LISTED + 3):
        unknown(cost_nano=cost)
    found = figures()["unknown"]
    assert found["count"] == report.LISTED + 3
    assert [row["cost_nano"] for row in found["rows"]] == list(range(report.LISTED + 2, 2, -1))


def rolled(day: str, cost: int) -> DailyCost:
    counts = dict.fromkeys(("generation_count", "attempts", "failures", "reserved_nano", "input_tokens"), 1)
    names = {"user_id": "", "model_name": "m", "task_type": "parse", "api": "", "strategy": "s"}
    return DailyCost(date=day, total_cost_nano=cost, output_tokens=1, **counts, **names)


def test_the_last_days_come_from_the_rollup_and_from_attempts_where_it_has_nothing() -> None:
    call(cost_nano=5)
    call("2025-11-19", cost_nano=40)
    call("2025-11-01", cost_nano=99)
    call("2025-10-31", cost_nano=3)
    call("2025-10-21", cost_nano=99)
    with write() as session:
        session.add_all([rolled("2025-11-01", 700), rolled("2025-10-22", 2), rolled(DAY, 99), rolled("2025-11-21", 99)])
        rounds.complete(session, rounds.ROLLUP, utc_now())
    found = figures()
    assert {row["day"]: row["cost_nano"] for row in found["days"] if row["cost_nano"]} == {
        "2025-10-22": 2, "2025-10-31": 3, "2025-11-01": 700, "2025-11-19": 40, DAY: 5,
    }  # fmt: skip
    assert (len(found["days"]), found["days"][-1]["day"]) == (30, DAY)
    assert found["month_nano"] == 745, "the month is that of the day, up to it"


def test_a_day_that_was_rolled_up_before_it_ended_counts_whole_in_the_month() -> None:
    """Beat was down since then, or it is minutes after midnight: the rollup knows only what came before its round."""
    now = utc_now()
    call("2025-11-19", cost_nano=40, settled_at=now - timedelta(hours=5))
    roll_up()
    with write() as session:
        session.merge(Round(name=rounds.ROLLUP, begun_at=now - timedelta(hours=4)))
    call("2025-11-19", cost_nano=1, settled_at=now - timedelta(hours=2))
    call(cost_nano=5, settled_at=now)
    assert figures()["month_nano"] == 46


def test_a_day_may_have_a_half_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_TIMEZONE", "Australia/Lord_Howe")
    once_per_environment.forget_all()
    assert (figures("2025-10-05")["hours"], figures("2025-10-06")["hours"]) == (23.5, 24)


def test_the_limits_are_those_that_held_when_the_day_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    call()
    with write() as session:
        record(session, "limit", "daily", None, "80", "ann")
        record(session, "limit", "monthly", None, "unlimited", "ann")
        session.flush()
        for change in session.query(report.reports.Change):
            change.created_at = NOON
        record(session, "limit", "daily", "80", "90", "ann")
    assert figures()["limits"] == {"daily_nano": 80 * 10**9, "monthly_nano": None, "user_nano": 5 * 10**9}
    assert report.write_due(MIDNIGHT) == [DAY]
    monkeypatch.setenv("MAX_COST_PER_USER_DAILY_USD", "7")
    once_per_environment.forget_all()
    call(cost_nano=1, settled_at=NOON + timedelta(days=1))
    assert report.write_due(MIDNIGHT + 60) == [DAY]
    assert figures()["limits"]["user_nano"] == 5 * 10**9, "another day's setting is not that day's"


def test_an_empty_day_has_figures_and_no_report() -> None:
    assert figures()["total"]["cost_nano"] == 0
    assert figures()["total"]["p95_ms"] is None
    assert report.write_due(MIDNIGHT) == []
    assert report.stored(date.fromisoformat(DAY)) is None


def test_a_report_is_written_once_when_its_day_is_over() -> None:
    call()
    assert report.write_due(MIDNIGHT - 1) == []
    assert report.write_due(MIDNIGHT) == [DAY]
    assert report.write_due(MIDNIGHT) == []
    assert report.write_due(MIDNIGHT + 3600) == []


def test_beat_runs_the_task_that_writes_them() -> None:
    from celeryconfig import beat_schedule, task_routes
    from tasks.maintenance import report as task

    yesterday = (report.today() - timedelta(days=1)).isoformat()
    call(yesterday, settled_at=utc_now())
    assert beat_schedule["report"]["task"] == task.name == "maintenance.report"
    assert "maintenance.*" in task_routes
    assert (task(), task()) == ([yesterday], [])


def test_days_that_nobody_was_there_for_are_caught_up_with() -> None:
    for day in ("2025-10-10", "2025-11-17", "2025-11-19", DAY):
        call(day)
    call("2025-11-21")
    assert report.write_due(MIDNIGHT + 7200) == ["2025-11-17", "2025-11-19", DAY], "none before the last 35 days"


def test_a_day_whose_report_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    days = ["2025-11-18", "2025-11-19", DAY]
    for day in days:
        call(day)
    sound = report._figures

    def broken(session: Any, day: date, *rest: Any) -> dict[str, Any]:
        if day.isoformat() == days[0]:
            raise KeyError(day)
        return sound(session, day, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(report, "_figures", broken)
        with pytest.raises(rounds.DaysFailed, match=days[0]):
            report.write_due(MIDNIGHT)
    with read() as session:
        assert {row.day for row in session.scalars(select(Report))} == {*days[1:]}
    assert report.write_due(MIDNIGHT) == [days[0]]


def test_a_late_outcome_a_correction_and_an_end_of_a_job_write_the_report_again() -> None:
    attempt = call(job="a", job_state=JobState.RUNNING, state=AttemptState.CALLING)
    other = call("2025-11-19")
    assert report.write_due(MIDNIGHT) == ["2025-11-19", DAY]
    assert figures()["open"]["count"] == 1

    def settle(session: Any, minutes: int, **values: Any) -> None:
        row = session.get_one(Attempt, attempt)
        row.settled_at = datetime.fromtimestamp(MIDNIGHT, UTC) + timedelta(minutes=minutes)
        for name, value in values.items():
            setattr(row, name, value)

    with write() as session:
        settle(session, 1, state=AttemptState.SUCCEEDED, success=True, cost_nano=10, cost_basis=CostBasis.USAGE)
    assert report.write_due(MIDNIGHT + 300) == [DAY]
    with write() as session:
        session.get_one(Job, "a").state = JobState.SUCCEEDED
    assert report.write_due(MIDNIGHT + 600) == [DAY]
    assert figures()["total"]["jobs_succeeded"] == 1
    with write() as session:
        record(session, "cost", other, "$0.01", "$0.02", "ann")
        session.get_one(Attempt, other).cost_nano = 20_000_000
    assert report.write_due(MIDNIGHT + 900) == ["2025-11-19"]
    assert report.write_due(MIDNIGHT + 1200) == []


def test_what_was_touched_without_changing_a_figure_writes_nothing() -> None:
    attempt = call()
    assert report.write_due(MIDNIGHT) == [DAY]
    with write() as session:
        session.get_one(Attempt, attempt).settled_at = datetime.fromtimestamp(MIDNIGHT + 60, UTC)
    assert report.write_due(MIDNIGHT + 300) == []


def test_reports_outlive_their_attempts_and_are_kept() -> None:
    call()
    report.write_due(MIDNIGHT)
    kept = figures()
    with write() as session:
        session.query(Attempt).delete()
        session.query(Job).delete()
    assert report.write_due(MIDNIGHT + 400 * 86_400) == []
    assert report.stored(date.fromisoformat(DAY)) == figures() == kept
    with read() as session:
        assert session.query(Report).count() == 1


@pytest.mark.parametrize(
    ("day", "midnight", "hours"),
    [("2026-03-29", "2026-03-29T22:00:00+00:00", 23), ("2026-10-25", "2026-10-25T23:00:00+00:00", 25)],
)
@pytest.mark.parametrize("down", [range(0), range(-1, 1)])
def test_days_of_23_and_25_hours_get_exactly_one_report_at_their_own_midnight(
    day: str, midnight: str, hours: int, down: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beat asks every five minutes, without a gap or with one around midnight."""
    from celeryconfig import beat_schedule

    monkeypatch.setenv("BUDGET_TIMEZONE", "Europe/Berlin")
    once_per_environment.forget_all()
    around = [(date.fromisoformat(day) + timedelta(days=n)).isoformat() for n in (-1, 0, 1)]
    for one in around:
        call(one)
    every = int(beat_schedule["report"]["schedule"])
    ends = datetime.fromisoformat(midnight).timestamp()
    # an odd start: nothing hangs on the minute
    asked = [second for second in range(int(ends) - 2 * 3600 + 17, int(ends) + 2 * 3600, every)
             if (second - ends) // 3600 not in down]  # fmt: skip
    written = [(one, second) for second in asked for one in report.write_due(second)]
    assert [one for one, _ in written] == around[:2]
    when = dict(written)[day]
    assert when == next(second for second in asked if second >= ends)
    assert figures(day)["hours"] == hours
