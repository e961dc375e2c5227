"""The main ways through the API, with its own process, real workers and the simulator."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from db.models import JobState
from tasks import embed, parse
from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(180)]

POSTING = "A bakery in Porto looks for a night baker. Skills: dough, ovens, patience. " * 30
WAITERS = 100


def client(stack: RunningStack) -> httpx.Client:
    limits = httpx.Limits(max_connections=WAITERS + 10)
    return httpx.Client(base_url=stack.stack.environment["PAYMASTER_API"], timeout=90, limits=limits)


def finished(api: httpx.Client, url: str) -> Any:
    """The job once it is over."""
    for _ in range(6):
        told = api.get(url, params={"wait": 30}).json()
        if JobState(told["state"]).final:
            return told
    raise AssertionError(told["state"])


def test_each_kind_of_job_is_submitted_waited_for_and_accounted(quiet: RunningStack) -> None:
    before = quiet.sums()
    with client(quiet) as api:
        accepted = api.post("/api/v1/jobs/parse/", json={"job_description": POSTING, "user_id": 3, "api": "keywords"})
        parsed = finished(api, accepted.headers["location"])
        assert parsed["state"] == "succeeded"
        assert parsed["result"]["processing_metadata"]["model_used"] == "gpt-4o"
        assert parsed["result"] == parse.AsyncResult(parsed["id"]).get(timeout=10)
        assert [attempt["state"] for attempt in parsed["attempts"]] == ["succeeded"]
        assert parsed["cost_usd"] == parsed["attempts"][0]["cost_usd"] > 0
        body = {"job_data": parsed["result"], "artifacts": [{"skill": "dough"}], "preferences": {"tone": "creative"}}
        cv = finished(api, api.post("/api/v1/jobs/generate/", json=body).json()["url"])
        assert cv["result"]["content"]["headline"]
        texts = [f"text number {number}" for number in range(3000)]
        vectors = finished(api, api.post("/api/v1/jobs/embed/", json={"texts": texts}).json()["url"])
        items = embed.AsyncResult(vectors["id"]).get(timeout=30)
        assert vectors["result"] == items
        assert len(items) == 3000
        figures = api.get("/api/v1/models/performance/").json()["model_performance"]
        assert figures["gpt-4o"]["total_generations"] >= 1
        assert figures["gpt-4o"]["success_rate"] > 0
        spent = api.get("/api/v1/budget/").json()["budgets"][0]["spent_usd"]
    sums = quiet.sums().since(before)
    cost = round(1e9 * (parsed["cost_usd"] + cv["cost_usd"] + vectors["cost_usd"]))
    assert sums.bill == sums.ledger == sums.rows == sums.jobs == cost
    assert round(1e9 * spent) == quiet.sums().ledger


def test_the_strategy_is_live_in_running_workers_within_a_second_or_so(quiet: RunningStack) -> None:
    with client(quiet) as api:
        try:
            told = api.put("/api/v1/models/settings/", json={"strategy": "cost_optimized"})
            assert told.json()["current_strategy"] == "cost_optimized"

            def model() -> str:
                url = api.post("/api/v1/jobs/parse/", json={"job_description": POSTING}).json()["url"]
                return str(finished(api, url)["result"]["processing_metadata"]["model_used"])

            wait_until(lambda: model() == "gpt-4o-mini", 60)
        finally:
            api.put("/api/v1/models/settings/", json={"strategy": "default"})


def test_a_hundred_may_wait_at_once_and_others_are_served_meanwhile(quiet: RunningStack) -> None:
    quiet.fault(fault="latency", seconds=4)
    with client(quiet) as api, ThreadPoolExecutor(WAITERS) as threads:
        urls = [
            api.post("/api/v1/jobs/parse/", json={"job_description": POSTING, "user_id": n}).json()["url"]
            for n in range(10)
        ]
        waiting = [threads.submit(finished, api, urls[n % len(urls)]) for n in range(WAITERS)]
        time.sleep(1)
        open_before = sum(not one.done() for one in waiting)
        assert api.get("/healthz").status_code == 200
        assert api.get("/api/v1/jobs/", params={"limit": 1}).status_code == 200
        told = [one.result(timeout=120) for one in waiting]
    assert open_before > WAITERS / 2
    assert {one["state"] for one in told} == {"succeeded"}


def test_ready_means_that_every_part_is_there(quiet: RunningStack) -> None:
    with client(quiet) as api:
        wait_until(lambda: api.get("/readyz").status_code == 200, 60)
        assert api.get("/readyz").json() == {
            "ready": True, "redis": "ok", "database": "ok", "broker": "ok", "workers": "ok",
        }  # fmt: skip


def test_hostile_input_reaches_no_provider(quiet: RunningStack) -> None:
    before = quiet.requests(), quiet.sums()
    headers = {"Content-Type": "application/json"}
    with client(quiet) as api:
        for body in (
            b'{"job_description": "x", "api_base": "http://127.0.0.1:9"}', b'{"job_description": "\\ud800"}',
            b'{"job_description": "a\\u0000b"}', b'{"job_description": NaN}', b" " * (50 << 20),
            b'{"job_description": "a", "job_description": "b"}', b'{"x":' * 10_000,
        ):  # fmt: skip
            for kind in ("parse", "generate", "embed", "batch"):
                answer = api.post(f"/api/v1/jobs/{kind}/", content=body, headers=headers)
                assert 400 <= answer.status_code < 500
        assert api.get("/healthz").status_code == 200
    assert (quiet.requests(), quiet.sums()) == before
