"""Jobs over HTTP, in this process and without workers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from kombu.exceptions import ConnectionLimitExceeded
from sqlalchemy.exc import OperationalError

from api.pause import Pause
from api.writing import THREADS, WRITERS
from budget.ledger import ledger
from db import jobs as queries
from db.models import Job, JobState
from db.session import write
from tests.api.conftest import POSTING, job, jobs, messages, problem_of
from tests.integration.conftest import wait_until
from worker.strategy import set_strategy
from worker.submit import place

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


def test_a_slash_too_few_or_too_many_is_no_matter(api: httpx.Client) -> None:
    told = api.post("/api/v1/jobs/parse", json=PARSE)
    assert told.status_code == 202
    path = told.json()["url"].rstrip("/")
    assert api.get(path, params={"wait": 0}).json()["id"] == told.json()["id"]
    assert api.delete(path).json()["state"] == "cancelled"
    assert api.put("/api/v1/models/settings", json={"strategy": "default"}).status_code == 200
    assert api.get("/healthz/").json() == {"status": "alive"}
    assert api.get("/api/v1/openapi.json").status_code == 200
    problem_of(api.get("/api/v1/nothing"), 404)


def test_head_is_get_without_a_body(api: httpx.Client) -> None:
    for path in ("/healthz", "/api/v1/models/", "/api/v1/jobs"):
        told, full = api.head(path), api.get(path)
        assert (told.status_code, told.content) == (200, b"")
        assert told.headers["content-length"] == full.headers["content-length"]
    problem_of(api.get("/api/v1/jobs/none/"), 404)
    assert api.head("/api/v1/jobs/none/").status_code == 404


def test_a_method_that_an_address_does_not_take_names_those_that_it_does(api: httpx.Client) -> None:
    for method in ("OPTIONS", "PATCH", "POST"):
        answer = api.request(method, "/api/v1/jobs/x/")
        assert problem_of(answer, 405)["type"].endswith(":method_not_allowed")
        assert answer.headers["allow"] == "DELETE, GET"
    assert api.patch("/api/v1/models/settings/").headers["allow"] == "GET, PUT"


def test_a_parameter_that_is_unknown_or_there_twice_is_refused(api: httpx.Client) -> None:
    assert "user_id" in problem_of(api.get("/api/v1/jobs/?user=7"), 422)["detail"]
    assert problem_of(api.get("/api/v1/jobs/?user_id=7&user_id=8"), 422)["field"] == "user_id"
    assert problem_of(api.get("/api/v1/models/settings/?token=x"), 422)["field"] == "token"
    assert "field" not in problem_of(api.get(f"/api/v1/jobs/?{'x' * 99}=7"), 422)


@pytest.mark.parametrize("error", [ConnectionLimitExceeded("pool"), RuntimeError("whatever"), OSError("away")])
def test_whatever_the_broker_says_the_job_that_was_accepted_is_told(
    api: httpx.Client, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("api.jobs._broker", Pause())
    monkeypatch.setattr("celery.app.task.Task.apply_async", fail)
    told = api.post("/api/v1/jobs/parse/", json=PARSE)
    assert told.status_code == 202
    assert job(told.json()["id"]).due_at is not None
    # it is not asked again at once
    monkeypatch.undo()
    assert messages(broker) == []


def test_where_a_commit_is_in_doubt_the_answer_says_so(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> None:
        raise OperationalError("insert", {}, Exception("connection lost"))

    for name in ("place", "place_all"):
        monkeypatch.setattr(f"api.jobs.{name}", lost)
    for path, body in (("parse", PARSE), ("batch", {"jobs": [{"kind": "parse", **PARSE}]})):
        answer = api.post(f"/api/v1/jobs/{path}/", json=body)
        assert "may have been accepted or not" in problem_of(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) > 0


def test_a_database_that_hangs_leaves_threads_to_those_who_read(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, first = threading.Event(), api.post("/api/v1/jobs/parse/", json=PARSE).json()

    def hang(job: Job) -> Job:
        goes_on.wait(60)
        return place(job)

    monkeypatch.setattr("api.jobs.place", hang)
    monkeypatch.setattr("api.writing.TURN_WITHIN_S", 1)
    with ThreadPoolExecutor(THREADS + 5) as clients:
        asked = [clients.submit(api.post, "/api/v1/jobs/parse/", json=PARSE) for _ in range(THREADS + 5)]
        try:
            wait_until(lambda: sum(one.done() for one in asked) == THREADS + 5 - WRITERS)
            for path in ("/healthz", "/readyz", first["url"], f"{first['url']}?wait=0.1", "/api/v1/budget/"):
                assert api.get(path).status_code in (200, 503)
            refused = [one.result() for one in asked if one.done()]
        finally:
            goes_on.set()
        assert all(problem_of(one, 503)["detail"].startswith("nothing was done") for one in refused)
        assert sum(one.result().status_code == 202 for one in asked) == WRITERS
    assert jobs() == WRITERS + 1


def test_a_job_is_cancelled_also_while_nobody_can_be_told(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr("api.jobs.tell_cancelled", lambda *_: goes_on.wait(60))
    try:
        for _ in range(WRITERS + 2):
            url = api.post("/api/v1/jobs/parse/", json=PARSE).json()["url"]
            assert api.delete(url, timeout=20).json()["state"] == "cancelled"
    finally:
        goes_on.set()
