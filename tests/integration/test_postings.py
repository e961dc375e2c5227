"""Real input: the 64 postings of the shared folder and its résumé, through all three kinds of job."""

import json

import pytest

from db.models import JobState
from tasks import embed, generate, parse
from tests.integration.conftest import SHARED, RunningStack

pytestmark = [
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(170),
    pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with real postings is not part of the project"),
]


def test_the_real_postings_go_through_all_three_kinds_and_every_sum_agrees(quiet: RunningStack) -> None:
    from cli.inputs import artifacts_of

    lines = (SHARED / "job_postings.jsonl").read_text().strip().split("\n")
    postings = [json.loads(line) for line in lines]
    assert len(postings) == 64
    artifacts = artifacts_of("resume.json", json.loads((SHARED / "resume.json").read_text()))
    before = quiet.sums()
    ids = []
    for number, posting in enumerate(postings):
        user = number % 40
        ids.append(parse.delay(job_description=posting["text"], role_title=posting["title"], user_id=user).id)
        job_data = {"raw_job_description": posting["text"], "role_title": posting["title"]}
        ids.append(generate.delay(job_data=job_data, artifacts=artifacts, user_id=user).id)
        ids.append(embed.delay(texts=[posting["text"][:80], posting["text"]], user_id=user).id)
    jobs = quiet.wait_final(ids, within_s=150)
    assert [(job.id, job.error) for job in jobs if job.state != JobState.SUCCEEDED] == []
    grown = quiet.sums().since(before)
    assert grown.bill > 0
    assert grown.bill == grown.ledger == grown.rows == grown.jobs
    assert grown.reserved == 0
    models = {job.model_metadata["model_used"] for job in jobs if job.model_metadata}
    assert models >= {"gpt-4o-mini", "gpt-4o", "claude-sonnet-4-20250514", "text-embedding-3-small"}
