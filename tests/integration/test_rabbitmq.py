"""The same workers on RabbitMQ by `CELERY_BROKER_URL`, with quorum queues: jobs of every kind, delays, fallbacks and a
killed worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu import Connection
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues

from cli.stack import QUEUES
from db.models import JobState
from tests.chaos.nursery import Nursery
from tests.integration.conftest import RunningStack, start, wait_until
from tests.rabbitmq import NOT_INSTALLED, program, rabbitmq_server

pytestmark = [
    pytest.mark.xdist_group("stack-rabbitmq"),
    pytest.mark.timeout(170),
    pytest.mark.skipif(program() is None, reason=NOT_INSTALLED),
]

POSTING = "A dairy in Bern looks for a cheesemaker. Skills: milk, salt, patience. " * 30
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rabbit(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack of its own, whose broker is RabbitMQ."""
    with rabbitmq_server() as url:
        yield from start(tmp_path_factory.mktemp("rabbit"), nursery, broker=url)


def application(stack: RunningStack, program: str) -> Any:
    """Run a program that uses the tasks, with the stack's environment; what it prints, which is JSON. This process has
    read Celery's settings for Redis."""
    heading = "import json\nfrom celery import chain\nfrom tasks import parse, generate, embed\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{heading}T = {POSTING!r}\n{program}"], capture_output=True, text=True, check=False,
        cwd=ROOT, env={**os.environ, **stack.stack.environment}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def balanced(stack: RunningStack) -> None:
    """Nothing is reserved, and ledger, rows and jobs agree."""
    wait_until(lambda: stack.sums().reserved == 0, 60)
    sums = stack.sums()
    assert sums.ledger == sums.rows == sums.jobs


def test_jobs_of_every_kind_delays_and_chains(rabbit: RunningStack) -> None:
    told = application(
        rabbit,
        """
from datetime import UTC, datetime, timedelta
from worker.app import app
made = [
    parse.delay(job_description=T),
    generate.delay(job_data={"raw_job_description": T}),
    generate.delay(job_data={"raw_job_description": T}, strategy="quality_optimized"),
    embed.delay(texts=["bread", "rolls"]),
    chain(parse.s(job_description=T), generate.s(artifacts=[])).apply_async(),
    app.send_task("tasks.parse", kwargs={"job_description": T}, queue="parse"),
    # RabbitMQ delays by whole seconds
    parse.apply_async(kwargs={"job_description": T}, countdown=0.3),
    parse.apply_async(kwargs={"job_description": T}, countdown=1.5),
    parse.apply_async(kwargs={"job_description": T}, eta=datetime.now(UTC) + timedelta(seconds=0.9)),
]
late = parse.apply_async(kwargs={"job_description": T}, countdown=600)
late.revoke()
for one in made:
    one.get(timeout=60)
print(json.dumps({"late": late.state, "ids": [one.id for one in made]}))
""",
    )
    assert told["late"] == "REVOKED"
    assert {rabbit.job(job_id).state for job_id in told["ids"]} == {JobState.SUCCEEDED}
    balanced(rabbit)
    sums = rabbit.sums()
    assert sums.bill == sums.ledger > 0


def test_queues_are_quorum_queues(rabbit: RunningStack) -> None:
    with Connection(rabbit.stack.environment["CELERY_BROKER_URL"]) as connection:
        for name in QUEUES:
            with pytest.raises(amqp.PreconditionFailed, match="quorum"):
                connection.channel().queue_declare(name, durable=True, auto_delete=False)


def test_retries_and_the_fallback_stay_in_their_queue(rabbit: RunningStack) -> None:
    rabbit.fault(fault="status", status=503, model="claude-opus-4-1-20250805")
    told = application(
        rabbit,
        """
made = generate.delay(job_data={"raw_job_description": T}, strategy="quality_optimized")
print(json.dumps([made.id, made.get(timeout=60)["processing_metadata"]]))
""",
    )
    rabbit.ask("DELETE", "/faults")
    job_id, metadata = told
    tried = [attempt["model"] for attempt in metadata["attempts"]]
    assert len(tried) >= 3 and set(tried[:-1]) == {"claude-opus-4-1-20250805"}
    assert metadata["fallback_used"] and tried[-1] == metadata["model_used"]
    assert job_id in rabbit.stack.log_of("worker-generate-premium").read_text()
    assert job_id not in rabbit.stack.log_of("worker-generate").read_text()
    balanced(rabbit)


def test_a_job_for_later_is_accepted_before_rabbitmq_has_a_place_for_it(rabbit: RunningStack) -> None:
    """That is so until its first worker has started."""
    submit = """
made = parse.apply_async(kwargs={"job_description": T}, countdown=60)
print(json.dumps([made.id, made.state]))
made.revoke()
"""
    with Connection(rabbit.stack.environment["CELERY_BROKER_URL"]) as connection:
        connection.channel().exchange_delete("celery_delayed_27")
        try:
            job_id, state = application(rabbit, submit)
        finally:
            declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
    assert state == "PENDING"
    assert rabbit.job(job_id).state == JobState.CANCELLED


def test_a_worker_is_killed_in_the_middle_of_its_calls(rabbit: RunningStack) -> None:
    balanced(rabbit)
    before = rabbit.sums()
    rabbit.fault(fault="latency", seconds=6)
    ids: list[str] = application(
        rabbit,
        """
ids = [parse.delay(job_description=f"{T} {number}").id for number in range(40)]
for number in range(3):
    last = chain(parse.s(job_description=f"{T} chained {number}"), generate.s(artifacts=[])).apply_async()
    ids += [last.id, last.parent.id]
print(json.dumps(ids))
""",
    )
    wait_until(lambda: sum(rabbit.job(job_id).state == JobState.RUNNING for job_id in ids[:40]) >= 10)
    os.kill(rabbit.stack.pid("worker-parse"), signal.SIGKILL)
    rabbit.stack.start_worker("parse")
    rabbit.ask("DELETE", "/faults")
    wait_until(lambda: all(rabbit.maybe_job(job_id) for job_id in ids), 90)
    jobs = rabbit.wait_final(ids, within_s=90)
    assert [(job.id, job.error) for job in jobs if job.state != JobState.SUCCEEDED] == []
    balanced(rabbit)
    grown = rabbit.sums().since(before)
    assert 0 < grown.bill <= grown.ledger
    rabbit.stack.check()


def test_the_doctor_finds_nothing_wrong(rabbit: RunningStack) -> None:
    def alarms() -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "doctor", "--json"], capture_output=True, text=True, check=False, cwd=ROOT,
            env={**os.environ, **rabbit.stack.environment},
        )  # fmt: skip
        found = json.loads(done.stdout)["findings"]
        assert any(one["subject"] == "broker" and "amqp://127.0.0.1" in one["finding"] for one in found)
        # the killed worker's calls
        return [one for one in found if one["level"] in ("warning", "error") and one["subject"] != "costs"]

    wait_until(lambda: alarms() == [], 40)
