"""Models, settings, budgets, costs, alerts and health over HTTP."""

import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest
import redis

from api.waiting import Waiting
from budget.ledger import ledger
from db.changes import latest
from db.models import (
    Alert,
    Attempt,
    AttemptState,
    CostBasis,
    DailyCost,
    Delivery,
    Job,
    JobState,
    utc_now,
)
from db.once import once_per_environment
from db.session import read, write
from tests.api.conftest import Tokens, problem_of, serving
from tests.integration.conftest import wait_until
from worker.strategy import current_strategy

MINI, GPT, SONNET, OPUS = "gpt-4o-mini", "gpt-4o", "claude-sonnet-4-20250514", "claude-opus-4-1-20250805"
BY_REGISTRY = {"cost_leader": MINI, "quality_leader": OPUS, "balanced_choice": GPT}


def call(model: str = GPT, days_ago: float = 0, job_id: str | None = None, number: int = 1, **values: Any) -> str:
    """A call in SQL that succeeded, with its job."""
    job_id = job_id or uuid.uuid4().hex
    moment = utc_now() - timedelta(days=days_ago)
    defaults = {
        "state": AttemptState.SUCCEEDED, "success": True, "cost_nano": 10_000_000, "cost_basis": CostBasis.USAGE,
        "tokens_used": 1000, "processing_time_ms": 1000, "quality_score": 0.9,
    }  # fmt: skip
    with write() as session:
        if session.get(Job, job_id) is None:
            session.add(Job(id=job_id, kind="parse", state=JobState.SUCCEEDED, queue="parse", payload={}))
            session.flush()
        session.add(
            Attempt(
                id=uuid.uuid4().hex, job_id=job_id, number=number, model_name=model, provider="openai",
                task_type="parse", strategy="balanced", reason="x", budget_day="2026-11-22", budget_month="2026-11",
                reserved_nano=20_000_000, created_at=moment, **{**defaults, **values},
            )
        )  # fmt: skip
    return job_id


def test_performance_is_what_the_calls_measured(api: httpx.Client) -> None:
    first = call(processing_time_ms=800, quality_score=0.8)
    failed = {"state": AttemptState.FAILED, "success": False, "cost_nano": 0, "error_code": "timeout"}
    call(job_id=first, number=2, **failed)
    call(cost_nano=50_000_000)
    call(SONNET, error_code="shutdown", state=AttemptState.UNKNOWN, success=False, quality_score=None)
    call(OPUS, days_ago=31)
    call(MINI, state=AttemptState.CALLING, success=None)
    told = api.get("/api/v1/models/performance/").json()
    assert [*told] == ["model_performance", "recommendations"]
    assert told["model_performance"] == {
        GPT: {
            "avg_processing_time_ms": 900, "avg_cost_per_generation": 0.03, "avg_quality_score": 0.85,
            "success_rate": 0.6667, "total_generations": 2,
        },
        SONNET: {
            "avg_processing_time_ms": None, "avg_cost_per_generation": 0.01, "avg_quality_score": None,
            "success_rate": None, "total_generations": 1,
        },
    }  # fmt: skip
    assert told["recommendations"] == BY_REGISTRY
    since = (utc_now() - timedelta(days=40)).date().isoformat()
    assert OPUS in api.get("/api/v1/models/performance/", params={"since": since}).json()["model_performance"]
    by = api.get("/api/v1/models/performance/", params={"by": "strategy"}).json()
    assert by["strategy_performance"]["balanced"]["total_generations"] == 3


@pytest.mark.parametrize(
    "since", ["yesterday", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "1e400", "\0"]
)
def test_a_time_that_is_none_is_refused(api: httpx.Client, since: str) -> None:
    assert problem_of(api.get("/api/v1/models/performance/", params={"since": since}), 422)["field"] == "since"


def test_settings_are_those_of_the_specification(api: httpx.Client) -> None:
    assert api.get("/api/v1/models/settings/").json() == {
        "current_strategy": "balanced",
        "available_strategies": ["cost_optimized", "balanced", "quality_optimized", "experimental"],
        "available_models": {
            "chat": [GPT, MINI, SONNET, OPUS],
            "embedding": ["text-embedding-3-small", "text-embedding-3-large"],
        },
    }


def test_the_strategy_is_changed_for_all_and_who_did_so_is_kept(tokens: Tokens) -> None:
    with serving() as url, httpx.Client(base_url=url, headers=tokens.headers["admin"]) as admin:
        told = admin.put("/api/v1/models/settings/", json={"strategy": "quality_optimized"})
        assert (told.status_code, told.json()["current_strategy"]) == (200, "quality_optimized")
        assert admin.get("/api/v1/models/settings/").json()["current_strategy"] == "quality_optimized"
        once_per_environment.forget_all()  # another process
        assert current_strategy() == "quality_optimized"
        with read() as session:
            (change,) = latest(session, 10)
        assert (change.what, change.before, change.after, change.who) == (
            "strategy", "balanced", "quality_optimized", "api:ops",
        )  # fmt: skip
        unknown = problem_of(admin.put("/api/v1/models/settings/", json={"strategy": "best"}), 422)
        assert unknown["field"] == "strategy"
        assert unknown["known"] == ["cost_optimized", "balanced", "quality_optimized", "experimental"]
        for body in ({}, {"strategy": 7}, {"strategy": "balanced", "more": 1}, {"strategy": None}):
            problem_of(admin.put("/api/v1/models/settings/", json=body), 422)
        assert (
            admin.put("/api/v1/models/settings/", json={"strategy": "default"}).json()["current_strategy"] == "balanced"
        )


def test_models_are_listed_with_their_breakers_and_without_addresses(api: httpx.Client, broker: redis.Redis) -> None:
    broker.hset("{paymaster}:breaker:gpt-4o", mapping={"state": "open", "until": 4102444800, "bad:1": 9})
    told = {model["id"]: model for model in api.get("/api/v1/models/").json()["models"]}
    assert told[GPT]["breaker"] == {"state": "open", "until": "2100-01-01T00:00:00+00:00", "calls": 9, "failures": 9}
    assert told[MINI]["breaker"]["state"] == "closed"
    assert told[GPT]["price"]["input"] == 2.5
    assert not {"api_base", "api_key_env", "litellm"} & set(told[GPT])


def test_budgets_are_those_of_the_ledger(api: httpx.Client) -> None:
    scopes = ledger().reserve("a" * 32, 2 * 10**9, job_id="j", user_id="7", job_cap=None, lease_s=60).scope_keys
    told = api.get("/api/v1/budget/", params={"user_id": "7"}).json()["budgets"]
    names = ("scope", "limit_usd", "spent_usd", "reserved_usd", "left_usd")
    assert [tuple(one[name] for name in names) for one in told] == [
        ("daily", 50, 0, 2, 48), ("monthly", 1000, 0, 2, 998), ("user", 5, 0, 2, 3),
    ]  # fmt: skip
    ledger().settle("a" * 32, scopes, 1_000_000_007)
    (daily, _) = api.get("/api/v1/budget/").json()["budgets"]
    assert (daily["spent_usd"], daily["resets_at"].endswith("+00:00")) == (1.000000007, True)


def cost(day: str, user: str, model: str = GPT, nano: int = 10**9, count: int = 4) -> DailyCost:
    return DailyCost(
        date=day, user_id=user, model_name=model, task_type="parse", api="", strategy="balanced", total_cost_nano=nano,
        generation_count=count, attempts=5, failures=1, reserved_nano=0, input_tokens=10, output_tokens=20,
    )  # fmt: skip


def test_daily_costs_come_a_page_at_a_time(api: httpx.Client) -> None:
    with write() as session:
        session.add_all([cost(f"2026-11-0{day}", user) for day in (1, 2, 3) for user in ("", "7", "8")])
        session.add(cost("2026-11-03", "7", MINI, 7, 0))
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/costs/daily/", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [(one["date"][-1], one["user_id"], one["model_name"]) for one in page["costs"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == [
        ("3", None, GPT), ("3", "7", GPT), ("3", "7", MINI), ("3", "8", GPT),
        ("2", None, GPT), ("2", "7", GPT), ("2", "8", GPT), ("1", None, GPT), ("1", "7", GPT), ("1", "8", GPT),
    ]  # fmt: skip
    some = {"since": "2026-11-02", "until": "2026-11-03", "user_id": "7", "model": GPT}
    told = api.get("/api/v1/costs/daily/", params=some).json()["costs"]
    assert [(one["date"], one["total_cost_usd"], one["avg_cost_per_generation"]) for one in told] == [
        ("2026-11-03", 1, 0.25), ("2026-11-02", 1, 0.25),
    ]  # fmt: skip
    problem_of(api.get("/api/v1/costs/daily/", params={"since": "today"}), 422)


def test_alerts_come_with_their_deliveries(api: httpx.Client) -> None:
    with write() as session:
        for number in (1, 2, 3):
            session.add(
                Alert(id=number, kind="budget", subject="daily", period=f"d{number}", threshold="0.8", message="m")
            )
        session.flush()
        session.add(Delivery(alert_id=2, channel="log", tries=1, error="refused"))
    first = api.get("/api/v1/alerts/", params={"limit": 2}).json()
    assert [one["id"] for one in first["alerts"]] == [3, 2]
    assert first["alerts"][1]["deliveries"] == [{"channel": "log", "tries": 1, "sent_at": None, "error": "refused"}]
    rest = api.get("/api/v1/alerts/", params={"cursor": first["next"]}).json()
    assert ([one["id"] for one in rest["alerts"]], rest["next"]) == ([1], None)
    # packed by hand: 10**30
    problem_of(api.get("/api/v1/alerts/", params={"cursor": "WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwXQ"}), 422)


def test_health_says_what_is_missing(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.get("/healthz").json() == {"status": "alive"}
    told = api.get("/readyz")
    assert told.status_code == 503
    assert {name: told.json()[name] for name in ("ready", "redis", "database", "broker")} == {
        "ready": False, "redis": "ok", "database": "ok", "broker": "ok",
    }  # fmt: skip
    assert told.json()["workers"] == "nobody serves parse, generate, generate-premium, embed, maintenance"
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at/all.db")
    once_per_environment.forget_all()
    wait_until(lambda: api.get("/readyz").json()["redis"] != "ok", 60)
    gone = api.get("/readyz").json()
    assert gone["redis"].startswith("gives no answer")
    assert gone["database"].startswith("gives no usable answer")
    problem_of(api.get("/api/v1/jobs/"), 503)


def test_all_who_wait_are_one_query_and_none_is_left_behind() -> None:
    import asyncio

    looked: list[int] = []
    over: set[str] = set()

    def look(ids: Any) -> list[str]:
        looked.append(len(ids))
        return [job_id for job_id in ids if job_id in over]

    async def wait() -> Waiting:
        waiting = Waiting(look)
        lasting = asyncio.create_task(waiting.until_over("never", 1.5))
        many = [asyncio.create_task(waiting.until_over(f"job-{n % 100}", 30)) for n in range(300)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in many)
        many[0].cancel()
        over.update(f"job-{n}" for n in range(100))
        await asyncio.wait_for(asyncio.gather(*many[1:]), 20)
        await lasting
        return waiting

    waiting = asyncio.run(wait())
    assert looked[0] == 101
    assert not waiting._waiting
