"""What programs are told of a job whose input and result were removed."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from cli.main import app as command
from db.models import Job, JobState, utc_now
from db.once import once_per_environment
from db.retention import prune
from db.session import write
from tasks import embed, parse
from tasks.maintenance import prune as prune_by_beat
from worker.again import NotOver, run_again
from worker.app import app as celery_app
from worker.errors import InvalidJob, JobFailed

pytestmark = pytest.mark.usefixtures("broker")

GONE = "were removed on"


def ended_job(state: JobState, days_ago: int) -> str:
    job_id = str(parse.delay(job_description="We look for a baker.", idempotency_key="mine").id)
    ended = {"state": state, "finished_at": utc_now() - timedelta(days=days_ago), "result": {"role_title": "Baker"}}
    with write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**ended))
    return job_id


def pruned_job(state: JobState) -> str:
    job_id = ended_job(state, 40)
    assert prune(30) == 1
    return job_id


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_over_http(api: httpx.Client, state: JobState) -> None:
    job_id = pruned_job(state)
    shown = api.get(f"/api/v1/jobs/{job_id}/").raise_for_status().json()
    assert (shown["state"], shown["result"]) == (state, None)
    assert shown["problem"]["type"].endswith(":pruned")
    assert GONE in shown["problem"]["detail"] and shown["pruned_at"]
    again = api.post("/api/v1/jobs/parse/", json={"job_description": "Another.", "idempotency_key": "mine"})
    assert again.json()["id"] == job_id


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
def test_by_celery(state: JobState) -> None:
    with pytest.raises(JobFailed, match=GONE):
        parse.AsyncResult(pruned_job(state)).get(timeout=10)


def test_a_message_that_comes_once_more_gets_the_sentence() -> None:
    with pytest.raises(JobFailed, match=GONE):
        parse.apply(task_id=pruned_job(JobState.SUCCEEDED), retries=1).get()


def test_its_key_brings_the_same_job_and_no_other_kind() -> None:
    job_id = pruned_job(JobState.SUCCEEDED)
    assert parse.delay(job_description="We look for a baker.", idempotency_key="mine").id == job_id
    with pytest.raises(InvalidJob, match="has this key"):
        embed.delay(texts=["bread"], idempotency_key="mine")


def test_it_cannot_run_again() -> None:
    with pytest.raises(NotOver, match="so it cannot be started again"):
        run_again(celery_app, pruned_job(JobState.FAILED), "me")


def test_on_the_command_line() -> None:
    job_id = pruned_job(JobState.SUCCEEDED)
    told = CliRunner().invoke(command, ["job", job_id])
    assert told.exit_code == 0 and GONE in " ".join(told.output.split())
    shown = json.loads(CliRunner().invoke(command, ["job", job_id, "--json"]).output)
    assert shown["result"] is None and GONE in shown["note"]


def test_the_command_counts_first() -> None:
    ended_job(JobState.SUCCEEDED, 2)

    def ran(*words: str) -> Any:
        return json.loads(CliRunner().invoke(command, ["db", "prune", *words, "--json"]).output)

    assert ran("--days", "3", "--dry-run") == {"days": 3, "jobs": 0, "alerts": 0, "dry_run": True}
    assert ran("--days", "1", "--dry-run") == {"days": 1, "jobs": 1, "alerts": 0, "dry_run": True}
    assert ran("--days", "1") == {"days": 1, "jobs": 1, "alerts": 0, "dry_run": False}
    assert ran("--days", "1", "--dry-run")["jobs"] == 0


def test_beat_prunes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ended_job(JobState.SUCCEEDED, 2)
    assert prune_by_beat() == 0
    monkeypatch.setenv("RETENTION_DAYS", "1")
    once_per_environment.forget_all()
    assert prune_by_beat() == 1
