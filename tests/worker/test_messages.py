"""What a worker does with a message, on a real broker and without a worker: retried, let go, refused or told."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry
from celery.result import AsyncResult
from celery.signals import task_revoked
from celery.worker.state import revoked
from kombu.exceptions import OperationalError
from sqlalchemy import func, select

from db.jobs import claim
from db.models import Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from tasks import embed, parse
from tests.integration.conftest import point_celery_at
from tests.worker.conftest import Broker
from tests.worker.lab import POSTING, run, submit
from worker.app import app
from worker.control import cancel_job
from worker.errors import JobFailed, RunAgain
from worker.request import QuietRequest
from worker.results import DEFERRED

pytestmark = pytest.mark.xdist_group("litellm")
SENTINEL = "zqmessageword"


@pytest.fixture
def results(published: Broker, redis_server: str) -> None:
    """Results are asked for where SQL knows them."""
    point_celery_at(redis_server)


@contextmanager
def message(job_id: str, **request: Any) -> Iterator[None]:
    """A message of this job is at work here."""
    parse.push_request(id=job_id, called_directly=False, delivery_info={"routing_key": "parse"}, **request)
    try:
        yield
    finally:
        parse.pop_request()


def job(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


def published_again(broker: Broker) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the one message that waits, and what hangs on it."""
    (raw,) = broker.client.lrange("parse", 0, -1)
    _, fields, hanging = json.loads(base64.b64decode(json.loads(raw)["body"]))
    return fields, hanging


def test_without_sql_a_message_with_a_payload_is_tried_again_with_it(
    published: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        once_per_environment.forget_all()
        fields = {"job_description": POSTING}
        with message("by-name", args=(), kwargs=fields), pytest.raises(Retry):
            parse.run(**fields)
    once_per_environment.forget_all()
    assert published_again(published)[0] == fields
    assert published.messages == [("parse", "by-name")]


def test_a_second_message_ends_at_once_unless_something_hangs_on_it(published: Broker) -> None:
    job_id = submit()
    with write() as session:
        assert claim(session, job_id, "another runner")
    with message(job_id), pytest.raises(Ignore):
        parse.run()
    assert published.messages == []
    with message(job_id, chain=[dict(embed.si(texts=["bread"]))]), pytest.raises(Retry):
        parse.run()
    assert published.messages == [("parse", job_id)]
    assert [step["kwargs"] for step in published_again(published)[1]["chain"]] == [{"texts": ["bread"]}]


def test_what_the_broker_does_not_take_is_no_failure_and_what_is_in_the_message_alone_comes_again(
    published: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OperationalError("memory alarm")

    def again(*_: Any) -> None:
        raise RunAgain(0, "the model is busy")

    monkeypatch.setattr("celery.app.task.Task.apply_async", refused)
    monkeypatch.setattr("worker.run.run_job", again)
    monkeypatch.setattr("worker.task.REFUSED_WAIT_S", 0)
    with message("its id alone"), pytest.raises(Ignore):
        parse.run()
    with message("a chain", chain=[dict(embed.si(texts=["bread"]))]), pytest.raises(Reject) as rejected:
        parse.run()
    assert rejected.value.requeue
    fields = {"job_description": POSTING}
    with message("by name", args=(), kwargs=fields), pytest.raises(Reject) as rejected:
        parse.run(**fields)
    assert rejected.value.requeue


def test_a_message_that_came_too_late_is_not_remembered_as_revoked(published: Broker) -> None:
    late = utc_now() - timedelta(hours=1)
    app.send_task("tasks.parse", kwargs={"job_description": POSTING}, task_id="late", queue="parse", expires=late)
    app.send_task("tasks.parse", kwargs={"job_description": POSTING}, task_id="in time", queue="parse", expires=3600)
    with app.connection_for_read() as connection:
        arrived = [connection.default_channel.basic_get("parse", no_ack=True) for _ in range(2)]
    requests = [QuietRequest(one, app=app, task=parse, hostname="h") for one in arrived]
    assert {request.id: request.maybe_expire() for request in requests} == {"late": True, "in time": None}
    assert "late" not in revoked, "somebody may start it again"


def test_a_message_whose_key_another_job_has_fails_and_names_that_job(published: Broker) -> None:
    first = parse.delay(job_description=POSTING, idempotency_key="order 17")
    with message("second"), pytest.raises(JobFailed, match=f"job {first.id} has this key already") as failed:
        parse.run(job_description=POSTING, idempotency_key="order 17")
    assert failed.value.code == "invalid"
    assert (job("second").state, job(first.id).state) == (JobState.FAILED, JobState.QUEUED)


def test_a_job_that_no_broker_takes_is_accepted_all_the_same(published: Broker) -> None:
    point_celery_at("redis://127.0.0.1:1/0")
    app.conf.result_backend = "disabled://"
    job_id = parse.delay(job_description=POSTING).id
    assert (job(job_id).state, published.messages) == (JobState.QUEUED, [])


@pytest.mark.usefixtures("results")
def test_a_step_that_its_chain_publishes_twice_is_one_job_and_one_message(published: Broker) -> None:
    for _ in range(2):
        step = parse.apply_async(kwargs={"job_description": POSTING}, task_id="step", parent_id="the step before")
        assert step.id == "step"
    assert published.messages == [("parse", "step")]
    assert AsyncResult("step", app=app).state == "PENDING"
    with read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_a_worker_shows_nobody_what_a_message_carries(published: Broker) -> None:
    app.send_task("tasks.parse", kwargs={"job_description": SENTINEL}, task_id="by-name", queue="parse")
    with app.connection_for_read() as connection:
        arrived = connection.default_channel.basic_get("parse", no_ack=True)
    request = QuietRequest(arrived, app=app, task=parse, hostname="h")
    assert request.kwargs == {"job_description": SENTINEL}, "it is there to be run"
    assert SENTINEL not in f"{request.info()} {request.info(safe=True)} {request!r} {request.kwargsrepr}"
    assert request.info()["id"] == "by-name"


@pytest.mark.usefixtures("results")
def test_what_is_revoked_is_cancelled_unless_it_has_begun(published: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr("worker.control.CeleryControl.revoke", lambda _, ids: told.append(ids))
    waiting, running, late = submit(), submit(), submit()
    with write() as session:
        assert claim(session, running, "a runner")
    app.control.revoke([waiting, running, "nobody's"])
    assert told == [["nobody's"]], "workers would throw away what they were told of for hours"
    assert not cancel_job(app, running)
    # a message that arrives at a worker which was told by Celery alone
    task_revoked.send(sender=parse, request=SimpleNamespace(id=late), terminated=False, signum=None, expired=False)
    states = [job(job_id).state for job_id in (waiting, running, late)]
    assert states == [JobState.CANCELLED, JobState.RUNNING, JobState.CANCELLED]
    assert [AsyncResult(job_id, app=app).state for job_id in (waiting, running)] == ["REVOKED", "STARTED"]


@pytest.mark.usefixtures("results")
def test_a_result_that_redis_never_had_is_that_of_the_row() -> None:
    done, pruned, failed, parked, waiting = (submit() for _ in range(5))
    shown = run(done)
    run(pruned)
    until = utc_now() + timedelta(hours=1)
    with write() as session:
        session.get_one(Job, pruned).pruned_at = utc_now()
        row = session.get_one(Job, failed)
        row.state, row.error, row.error_code = JobState.FAILED, "No room.", "budget"
        row = session.get_one(Job, parked)
        row.state, row.error, row.due_at = JobState.DEFERRED, "No room now.", until
    assert AsyncResult(done, app=app).get(timeout=20) == shown
    for job_id, code in ((pruned, "pruned"), (failed, "budget")):
        with pytest.raises(JobFailed) as told:
            AsyncResult(job_id, app=app).get(timeout=20)
        assert told.value.code == code
    assert (AsyncResult(parked, app=app).state, AsyncResult(waiting, app=app).state) == (DEFERRED, "PENDING")
    assert AsyncResult(parked, app=app).info == {"why": "No room now.", "until": until.isoformat()}
    assert AsyncResult("nobody's", app=app).state == "PENDING"
    app.backend.store_result(waiting, {"what": "came first"}, "SUCCESS")
    assert AsyncResult(waiting, app=app).get(timeout=20) == {"what": "came first"}
