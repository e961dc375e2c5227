"""Jobs over HTTP, in this process and without workers."""

from typing import Any

import httpx
import pytest
import redis

from budget.ledger import ledger
from db import jobs as queries
from db.models import Job, JobState
from db.session import write
from tests.api.conftest import POSTING, job, jobs, messages, problem_of
from worker.strategy import set_strategy

PARSE = {"job_description": POSTING, "user_id": 7, "api": "keywords"}
CV = {"job_data": {"raw_job_description": POSTING}, "artifacts": [{"a": 1}]}


@pytest.mark.parametrize(
    ("kind", "body", "queue"),
    [
        ("parse", PARSE, "parse"),
        ("generate", CV, "generate"),
        ("generate", {**CV, "strategy": "quality_optimized"}, "generate-premium"),
        ("embed", {"texts": ["bread"]}, "embed"),
    ],
)
def test_a_job_is_written_and_published(
    api: httpx.Client, broker: redis.Redis, kind: str, body: dict[str, Any], queue: str
) -> None:
    answer = api.post(f"/api/v1/jobs/{kind}/", json=body)
    assert answer.status_code == 202
    told = answer.json()
    assert told["state"] == "queued"
    assert answer.headers["location"] == told["url"] == f"/api/v1/jobs/{told['id']}/"
    assert messages(broker) == [(queue, told["id"])]
    row = job(told["id"])
    assert (row.kind, row.queue, row.state) == (kind, queue, JobState.QUEUED)
    shown = api.get(told["url"]).json()
    assert (shown["id"], shown["state"], shown["attempts"], shown["result"]) == (told["id"], "queued", [], None)
    assert shown["cost_usd"] == 0
    assert shown["problem"] is None


def test_headers_of_the_model_and_of_the_job_arrive(api: httpx.Client, broker: redis.Redis) -> None:
    headers = {"X-LLM-Model": "gpt-4o", "Idempotency-Key": "order-1"}
    first = api.post("/api/v1/jobs/parse/", json=PARSE, headers=headers)
    again = api.post("/api/v1/jobs/parse/", json=PARSE, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert job(first.json()["id"]).payload["x_llm_model"] == "gpt-4o"
    assert len(messages(broker)) == jobs() == 1
    other = api.post("/api/v1/jobs/parse/", json={**PARSE, "api": "gap_analysis"}, headers=headers)
    assert problem_of(other, 422)["field"] == "idempotency_key"
    both = api.post("/api/v1/jobs/parse/", json={**PARSE, "idempotency_key": "order-2"}, headers=headers)
    assert problem_of(both, 422)["field"] == "idempotency_key"
    assert jobs() == 1


@pytest.mark.parametrize(
    ("kind", "body", "field", "words"),
    [
        ("parse", {}, "job_description", "is missing"),
        ("parse", {**PARSE, "job_description": " "}, "job_description", "must not be empty"),
        ("parse", {**PARSE, "model": "gpt-9"}, "model", "known chat models"),
        ("parse", {**PARSE, "strategy": "best"}, "strategy", "known: cost_optimized"),
        ("parse", {**PARSE, "on_budget": "pay"}, "on_budget", "reject"),
        ("parse", {**PARSE, "api_base": "http://evil.example"}, "api_base", "is not known"),
        ("generate", {"job_data": {}}, "job_data.raw_job_description", "is missing"),
        ("embed", {"texts": ["a", ""]}, "texts.1", "must not be empty"),
        ("embed", {"texts": []}, "texts", "at least 1 item"),
    ],
)
def test_a_bad_field_is_named(
    api: httpx.Client, broker: redis.Redis, kind: str, body: dict[str, Any], field: str, words: str
) -> None:
    told = problem_of(api.post(f"/api/v1/jobs/{kind}/", json=body), 422)
    assert told["field"] == field
    assert words in told["detail"]
    assert "evil" not in told["detail"]
    assert (jobs(), messages(broker)) == (0, [])


def test_a_batch_gives_each_job_its_own_outcome(api: httpx.Client, broker: redis.Redis) -> None:
    given = [
        {"kind": "parse", **PARSE, "idempotency_key": "a"},
        {"kind": "parse"},
        {"kind": "paint"},
        "no object",
        {"kind": "embed", "texts": ["bread"]},
        {"kind": "parse", **PARSE, "idempotency_key": "a"},
    ]
    answer = api.post("/api/v1/jobs/batch/", json={"jobs": given})
    assert answer.status_code == 207
    told = answer.json()["jobs"]
    assert [one["status"] for one in told] == [202, 422, 422, 422, 202, 202]
    assert told[0]["job"] == told[5]["job"]
    assert [one["problem"]["field"] for one in told[1:4]] == ["job_description", "kind", "kind"]
    assert {job_id for _, job_id in messages(broker)} == {told[0]["job"]["id"], told[4]["job"]["id"]}
    assert jobs() == len(messages(broker)) == 2


@pytest.mark.parametrize("body", [{}, {"jobs": []}, {"jobs": {}}, {"jobs": [{}] * 101}, {"jobs": [{}], "more": 1}])
def test_a_batch_of_the_wrong_shape_is_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    assert problem_of(api.post("/api/v1/jobs/batch/", json=body), 422)["field"] == "jobs"


def test_jobs_are_listed_a_page_at_a_time(api: httpx.Client) -> None:
    ids = [api.post("/api/v1/jobs/parse/", json={**PARSE, "user_id": n % 2}).json()["id"] for n in range(7)]
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/jobs/", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [one["id"] for one in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
        assert len(page["jobs"]) == 3
    assert seen == ids[::-1]
    odd = api.get("/api/v1/jobs/", params={"user_id": "1", "state": "queued", "kind": "parse", "api": "keywords"})
    assert [one["id"] for one in odd.json()["jobs"]] == ids[5::-2]
    assert api.get("/api/v1/jobs/", params={"state": "failed"}).json() == {"jobs": [], "next": None}


@pytest.mark.parametrize(
    "parameters",
    [
        {"cursor": "x"}, {"cursor": "WyJ5IiwgIngiXQ"}, {"cursor": "WzEsIDJd"}, {"cursor": "é"}, {"limit": 0},
        {"limit": "9" * 400}, {"state": "lost"}, {"kind": "paint"}, {"user_id": ""}, {"api": "a\0b"},
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named(api: httpx.Client, parameters: dict[str, Any]) -> None:
    assert problem_of(api.get("/api/v1/jobs/", params=parameters), 422)["field"] == next(iter(parameters))


@pytest.mark.parametrize("job_id", ["none", "a%00b", "%ff", "x" * 5000, "%F0%9F%8D%9E", "' or 1=1 --"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_job_is_not_found(api: httpx.Client, method: str, job_id: str) -> None:
    problem_of(api.request(method, f"/api/v1/jobs/{job_id}/"), 404)


def test_a_waiting_job_is_cancelled_and_a_running_one_is_not(api: httpx.Client) -> None:
    job_id = api.post("/api/v1/jobs/parse/", json=PARSE).json()["id"]
    told = api.delete(f"/api/v1/jobs/{job_id}/")
    assert (told.status_code, told.json()["state"]) == (200, "cancelled")
    assert api.delete(f"/api/v1/jobs/{job_id}/").json()["state"] == "cancelled"
    running = api.post("/api/v1/jobs/parse/", json=PARSE).json()["id"]
    with write() as session:
        assert queries.claim(session, running, "a worker")
    assert "running" in problem_of(api.delete(f"/api/v1/jobs/{running}/"), 409)["detail"]
    assert job(running).state == JobState.RUNNING


def spend(usd: float) -> None:
    """Let the budgets of user 7 have spent so much."""
    scopes = ledger().reserve("a" * 32, 1, job_id="other", user_id="7", job_cap=None, lease_s=60).scope_keys
    ledger().settle("a" * 32, scopes, round(usd * 1e9))


def test_a_budget_that_is_used_up_says_which_and_until_when(api: httpx.Client, broker: redis.Redis) -> None:
    spend(5)
    answer = api.post("/api/v1/jobs/parse/", json=PARSE)
    told = problem_of(answer, 402)
    assert (told["type"], told["scope"]) == ("urn:problem-type:paymaster:budget", "user")
    assert (told["limit_usd"], told["spent_usd"]) == (5, 5)
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert (jobs(), messages(broker)) == (0, [])
    # another user has a budget of their own, and who can wait is let in
    assert api.post("/api/v1/jobs/parse/", json={**PARSE, "user_id": 8}).status_code == 202
    assert api.post("/api/v1/jobs/parse/", json={**PARSE, "on_budget": "defer"}).status_code == 202
    batch = api.post(
        "/api/v1/jobs/batch/", json={"jobs": [{"kind": "parse", **PARSE}, {"kind": "embed", "texts": "x"}]}
    )
    assert [one["status"] for one in batch.json()["jobs"]] == [402, 422]


def test_a_job_that_never_fits_says_so_and_names_no_time(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from db.once import once_per_environment

    monkeypatch.setenv("DAILY_BUDGET_USD", "0.0001")
    once_per_environment.forget_all()
    answer = api.post("/api/v1/jobs/parse/", json=PARSE)
    told = problem_of(answer, 402)
    assert (told["type"], told["scope"]) == ("urn:problem-type:paymaster:budget_never_fits", "daily")
    assert "retry-after" not in answer.headers
    monkeypatch.setenv("DAILY_BUDGET_USD", "0")
    once_per_environment.forget_all()
    stopped = api.post("/api/v1/jobs/parse/", json=PARSE)
    assert problem_of(stopped, 402)["type"] == "urn:problem-type:paymaster:budget"
    assert "retry-after" not in stopped.headers


def test_the_same_job_again_is_not_refused_for_a_budget(api: httpx.Client) -> None:
    body = {**PARSE, "idempotency_key": "once"}
    first = api.post("/api/v1/jobs/parse/", json=body)
    spend(5)
    assert api.post("/api/v1/jobs/parse/", json=body).json() == first.json()


def test_what_is_only_reserved_refuses_nobody(api: httpx.Client) -> None:
    ledger().reserve("a" * 32, 5 * 10**9, job_id="other", user_id="7", job_cap=None, lease_s=60)
    assert api.post("/api/v1/jobs/parse/", json=PARSE).status_code == 202


def test_without_a_ledger_jobs_are_accepted(api: httpx.Client, broker: redis.Redis) -> None:
    broker.delete("{paymaster}:warm")
    assert api.post("/api/v1/jobs/parse/", json=PARSE).status_code == 202


def test_a_job_that_failed_for_a_budget_shows_that(api: httpx.Client) -> None:
    job_id = api.post("/api/v1/jobs/parse/", json=PARSE).json()["id"]
    sentence = "budget: a call of up to $0.02 does not fit in what is left of the user's daily budget (limit $5.00)"
    with write() as session:
        row = session.get_one(Job, job_id)
        row.state, row.error_code, row.error = JobState.FAILED, "budget", sentence
    told = api.get(f"/api/v1/jobs/{job_id}/").json()["problem"]
    assert (told["type"], told["status"], told["scope"]) == ("urn:problem-type:paymaster:budget", 402, "user")
    assert told["detail"] == sentence


def test_the_current_strategy_decides_the_queue(api: httpx.Client, broker: redis.Redis) -> None:
    set_strategy("experimental", "a test")
    api.post("/api/v1/jobs/generate/", json=CV)
    assert [queue for queue, _ in messages(broker)] == ["generate-premium"]


def test_the_server_subscribes_to_nobodys_result(api: httpx.Client, broker: redis.Redis) -> None:
    broker.config_resetstat()
    api.post("/api/v1/jobs/parse/", json=PARSE)
    commands = broker.info("commandstats")
    assert "cmdstat_lpush" in commands
    assert "cmdstat_subscribe" not in commands
