"""The way of a job with ordinary Celery, against real workers."""

import json
import subprocess
import sys
import urllib.request
from array import array
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import QueueNotFound, TaskRevokedError
from celery.result import AsyncResult

from db.models import JobState, JobVectors
from db.session import read
from tasks import JobFailed, embed, generate, parse
from tests.integration.conftest import RunningStack, Sums, wait_until
from worker.app import app

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(120)]

POSTING = "A bakery in Porto looks for a night baker. Skills: dough, ovens, patience. " * 30
METADATA = {
    "model_used", "processing_time_ms", "tokens_used", "cost_usd", "quality_score", "selection_reason",
    "complexity_score", "fallback_used",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def before(stack: RunningStack) -> Sums:
    """What others have left in the stack's books."""
    return stack.sums()


def test_parse_gives_the_posting_with_its_metadata(quiet: RunningStack) -> None:
    result = parse.delay(job_description=POSTING, company_name="Forno", user_id=12, api="keywords").get(timeout=30)
    assert result["company_name"] == "Forno"
    assert 0 <= result["confidence_score"] <= 1
    metadata = result["processing_metadata"]
    assert set(metadata) >= METADATA
    assert metadata["model_used"] == "gpt-4o"
    assert metadata["selection_reason"] == "balanced_strategy_general_complexity"
    assert metadata["quality_score"] == result["confidence_score"]
    assert metadata["cost_usd"] > 0
    assert metadata["fallback_used"] is False


def test_generate_gives_content_with_its_metadata(quiet: RunningStack) -> None:
    result = generate.delay(job_data={"raw_job_description": POSTING}, artifacts=[{"skill": "dough"}]).get(timeout=30)
    assert set(result) == {"content", "processing_metadata"}
    assert result["content"]["headline"]
    assert set(result["processing_metadata"]) >= METADATA


def test_a_parse_result_goes_into_generate_by_a_celery_chain(quiet: RunningStack) -> None:
    steps = chain(parse.s(job_description=POSTING), generate.s(artifacts=[], preferences={"tone": "creative"}))
    result = steps.apply_async().get(timeout=40)
    assert result["processing_metadata"]["complexity_score"] == 0.3


def test_an_invalid_step_of_a_chain_fails_by_itself(quiet: RunningStack) -> None:
    last = chain(parse.s(job_description=POSTING), generate.s(artifacts="not a list")).apply_async()
    with pytest.raises(JobFailed, match="field artifacts"):
        last.get(timeout=40)
    assert last.parent is not None
    assert last.parent.get(timeout=5)["role_title"]
    assert (quiet.job(last.id).state, quiet.job(last.id).error_code) == (JobState.FAILED, "invalid")


def test_an_unknown_queue_is_an_error_and_leaves_no_job_to_be_run(quiet: RunningStack) -> None:
    with pytest.raises(QueueNotFound):
        parse.apply_async(kwargs={"job_description": POSTING}, task_id="mistyped", queue="parze")
    assert quiet.job("mistyped").state == JobState.CANCELLED


def test_a_group_gives_its_results_in_order(quiet: RunningStack) -> None:
    titles = ["Baker", "Miller", "Carter"]
    results = group(parse.s(job_description=POSTING, role_title=title) for title in titles)().get(timeout=40)
    assert [result["role_title"] for result in results] == titles


def test_embed_gives_one_item_per_text_equal_to_what_the_provider_sent(quiet: RunningStack) -> None:
    texts = ["bread", "rolls", "bread"]
    items = embed.delay(texts=texts, use_case="similarity").get(timeout=30)
    assert [item["text_index"] for item in items] == [0, 1, 2]
    assert {item["model_used"] for item in items} == {"text-embedding-3-small"}
    assert {item["dimensions"] for item in items} == {1536}
    for item, sent in zip(items, provider_vectors(quiet, texts), strict=True):
        assert isinstance(item["embedding"], list)
        assert item["embedding"] == sent
    assert items[0]["embedding"] == items[2]["embedding"] != items[1]["embedding"]


def provider_vectors(stack: RunningStack, texts: list[str]) -> list[list[float]]:
    body = json.dumps({"model": "text-embedding-3-small", "input": texts, "encoding_format": "base64"}).encode()
    headers = {"Authorization": "Bearer simulated", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{stack.simulator}/v1/embeddings", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [array("f", b64decode(row["embedding"])).tolist() for row in json.loads(answer.read())["data"]]


def test_a_large_embed_job_shows_progress_and_stays_small_in_sql(quiet: RunningStack) -> None:
    texts = [f"text number {number}" for number in range(5000)]
    quiet.fault(fault="latency", seconds=1.5)
    result = embed.delay(texts=texts)
    wait_until(lambda: result.state == "PROGRESS")
    assert result.info == {"done": 1, "total": 3}
    items = result.get(timeout=60)
    assert [item["text_index"] for item in items] == list(range(5000))
    assert sum(item["cost_share_usd"] for item in items) == pytest.approx(
        float(quiet.job(result.id).total_cost_nano) / 1e9
    )
    with read() as session:
        sizes = [len(row.vectors) for row in session.query(JobVectors).filter_by(job_id=result.id)]
    assert sum(sizes) == 5000 * 1536 * 4
    assert sum(sizes) / 5000 * 2000 < 15_000_000


def test_states_are_those_of_celery(quiet: RunningStack) -> None:
    quiet.fault(fault="latency", seconds=2)
    result = parse.apply_async(kwargs={"job_description": POSTING}, countdown=1)
    assert AsyncResult("no-such-job", app=app).state == "PENDING"
    assert result.state == "PENDING"
    wait_until(lambda: result.state == "STARTED")
    result.get(timeout=30)
    assert result.state == "SUCCESS"
    assert result.successful()


def test_a_result_outlives_redis(quiet: RunningStack) -> None:
    result = embed.delay(texts=["bread"])
    items = result.get(timeout=30)
    app.backend.client.delete(app.backend.get_key_for_task(result.id))
    again = AsyncResult(result.id, app=app)
    assert again.state == "SUCCESS"
    assert again.get(timeout=5) == items


def test_a_chosen_task_id_and_queue_are_kept(quiet: RunningStack) -> None:
    result = parse.apply_async(kwargs={"job_description": POSTING}, task_id="my-own-id", queue="embed")
    assert result.id == "my-own-id"
    assert result.get(timeout=30)["role_title"]


def test_a_job_can_be_revoked_before_it_runs(quiet: RunningStack) -> None:
    before = quiet.requests()
    result = parse.apply_async(kwargs={"job_description": POSTING}, countdown=2)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert quiet.job(result.id).state == JobState.CANCELLED
    assert result.state == "REVOKED"
    follower = parse.apply_async(kwargs={"job_description": POSTING}, countdown=3)
    follower.get(timeout=30)
    assert quiet.requests() == before + 1


def test_a_job_runs_in_this_very_process_when_called_as_a_function(quiet: RunningStack) -> None:
    assert parse(job_description=POSTING)["processing_metadata"]["model_used"] == "gpt-4o"
    assert isinstance(embed(texts=["bread"])[0]["embedding"], list)


def test_a_failing_model_is_followed_by_the_next(quiet: RunningStack) -> None:
    quiet.fault(fault="status", status=503, model="gpt-4o")
    result = parse.delay(job_description=POSTING).get(timeout=40)
    metadata = result["processing_metadata"]
    assert metadata["fallback_used"] is True
    assert metadata["model_used"] == "claude-sonnet-4-20250514"
    assert [attempt["model"] for attempt in metadata["attempts"]] == ["gpt-4o", "gpt-4o", "claude-sonnet-4-20250514"]
    assert metadata["selection_reason"].startswith("fallback_after_")


def test_a_job_that_no_model_can_do_fails_with_a_sentence(quiet: RunningStack) -> None:
    quiet.fault(fault="status", status=401)
    result = parse.delay(job_description=POSTING)
    with pytest.raises(JobFailed, match=r"given up|no model is left"):
        result.get(timeout=60)
    assert result.state == "FAILURE"


def send_from_outside(stack: RunningStack, task: str, kwargs: dict[str, Any], folder: Path) -> Any:
    """Send by name from a program that knows nothing but the broker, and wait for the result."""
    program = f"""
import json, sys
from celery import Celery
app = Celery(broker={stack.stack.environment["REDIS_URL"]!r}, backend={stack.stack.environment["REDIS_URL"]!r})
app.conf.task_routes = {{"tasks.parse": {{"queue": "parse"}}, "tasks.embed": {{"queue": "embed"}}}}
result = app.send_task({task!r}, kwargs=json.loads(sys.stdin.read()))
try:
    print(json.dumps(dict(id=result.id, result=result.get(timeout=30))))
except Exception as error:
    print(json.dumps(dict(id=result.id, error=str(error), kind=type(error).__name__)))
assert not [name for name in sys.modules if name.split(".")[0] in ("tasks", "worker", "db")]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(kwargs),
        capture_output=True, text=True, cwd=folder, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_program_that_has_only_the_broker_can_send_by_name(quiet: RunningStack, tmp_path: Path) -> None:
    told = send_from_outside(quiet, "tasks.parse", {"job_description": POSTING, "role_title": "Baker"}, tmp_path)
    assert told["result"]["role_title"] == "Baker"
    assert quiet.job(told["id"]).state == JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({}, "parse: field job_description is missing: The text of the posting."),
        ({"job_description": "x", "api_base": "http://evil"}, "parse: field api_base is not known"),
        ({"job_description": "x", "model": "gpt-9"}, "'gpt-9' is not in the model registry"),
    ],
)
def test_what_arrives_broken_ends_as_a_failed_job_with_a_sentence(
    quiet: RunningStack, tmp_path: Path, kwargs: dict[str, Any], sentence: str
) -> None:
    before = quiet.requests(), quiet.sums()
    told = send_from_outside(quiet, "tasks.parse", kwargs, tmp_path)
    assert sentence in told["error"]
    job = quiet.job(told["id"])
    assert (job.state, job.error_code) == (JobState.FAILED, "invalid")
    assert (quiet.requests(), quiet.sums()) == before


def test_afterwards_bill_ledger_rows_and_jobs_agree_and_nothing_is_held(quiet: RunningStack, before: Sums) -> None:
    assert quiet.sums().reserved == 0
    sums = quiet.sums().since(before)
    assert sums.ledger == sums.rows
    # one request of ours went to the provider past the stack, to compare vectors
    assert 0 <= sums.bill - sums.ledger < 1000
    assert sums.jobs == sums.rows
