"""Jobs whose message was lost, on a real broker; and what the sweeper still does while something is away."""

import base64
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from budget.ledger import ledger
from db.models import Job, JobState, utc_now
from db.once import once_per_environment
from db.session import write
from tasks import parse
from tasks.kinds import Embed
from tests.integration.conftest import point_celery_at
from tests.worker.conftest import Broker, Simulator
from tests.worker.lab import POSTING, die_during_the_call, spent_and_reserved, submit
from worker import sweeper
from worker.sweeper import LOST_IN_A_FULL_QUEUE_S, sweep

pytestmark = pytest.mark.xdist_group("litellm")
NOBODY = "127.0.0.1:1"


@pytest.fixture
def steady(published: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker, and a sweeper that has seen SQL for long enough to take silence for death."""
    monkeypatch.setattr(sweeper, "AFTER_OUTAGE_S", 0)
    return published


def should_have_begun(job_id: str, seconds_ago: float = 1) -> None:
    with write() as session:
        session.get_one(Job, job_id).due_at = utc_now() - timedelta(seconds=seconds_ago)


def test_a_job_whose_message_was_lost_is_published_again_and_then_left_alone_for_a_while(steady: Broker) -> None:
    job_id = submit()
    assert sweep(steady.app) == {}, "it may still be claimed in time"
    should_have_begun(job_id)
    assert sweep(steady.app) == {"overdue": 1}
    assert steady.messages == [("parse", job_id)]
    steady.client.delete("parse")
    assert sweep(steady.app) == {}
    should_have_begun(job_id)
    assert sweep(steady.app) == {"overdue": 1}
    assert steady.messages == [("parse", job_id)]


def test_where_messages_wait_a_job_is_given_much_longer(steady: Broker) -> None:
    waiting = parse.delay(job_description=POSTING).id
    lost, lost_elsewhere = submit(), submit(Embed(), texts=["bread"])
    for job_id in (waiting, lost, lost_elsewhere):
        should_have_begun(job_id)
    assert sweep(steady.app) == {"overdue": 1}
    assert steady.messages == [("parse", waiting), ("embed", lost_elsewhere)]
    should_have_begun(lost, LOST_IN_A_FULL_QUEUE_S + 1)
    assert sweep(steady.app) == {"overdue": 1}
    assert ("parse", lost) in steady.messages


def test_a_job_whose_runner_gave_no_sign_of_life_is_published(steady: Broker) -> None:
    job_id = submit()
    die_during_the_call(job_id)
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    assert sweep(steady.app) == {"orphans": 1}
    assert steady.messages == [("parse", job_id)]


def park(hangs_on_it: dict[str, Any] | None) -> str:
    """A job that waits for the moment that has come, and what hangs on its message."""
    job_id = submit()
    with write() as session:
        job = session.get_one(Job, job_id)
        job.state, job.due_at = JobState.DEFERRED, utc_now() - timedelta(seconds=1)
        job.message = None if hangs_on_it is None else signature(job_id, **hangs_on_it)
    return job_id


def signature(job_id: str, **options: Any) -> dict[str, Any]:
    """As the worker that parked it has written it down."""
    made = parse.signature((), {}, task_id=job_id, **{"retries": 1, "queue": "parse", **options})
    return dict(json.loads(json.dumps(made)))


def test_a_parked_job_is_published_with_the_rest_of_its_chain(steady: Broker) -> None:
    rest = [dict(parse.si(job_description="The next."))]
    plain, chained = park(None), park({"chain": rest})
    assert sweep(steady.app) == {"released": 2}
    assert sorted(steady.messages) == sorted([("parse", plain), ("parse", chained)])
    messages = [json.loads(message) for message in steady.client.lrange("parse", 0, -1)]
    rests = {m["headers"]["id"]: json.loads(base64.b64decode(m["body"]))[2]["chain"] for m in messages}
    assert not rests[plain]
    assert [step["kwargs"] for step in rests[chained]] == [{"job_description": "The next."}]


def test_one_that_cannot_be_published_keeps_nobody_behind_it_waiting(
    steady: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = park({"queue": "no-such-queue"}), park(None)
    assert sweep(steady.app) == {"released": 1}
    assert steady.messages == [("parse", second)]
    assert f"job {first} could not be published" in caplog.text
    for job_id in (first, second):
        should_have_begun(job_id, LOST_IN_A_FULL_QUEUE_S + 1)
    with write() as session:
        session.get_one(Job, first).message = None
    assert sweep(steady.app) == {"overdue": 2}, "it was tried again"


def test_while_the_ledger_is_away_lost_messages_are_still_sent_again(
    steady: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = submit()
    should_have_begun(job_id)
    monkeypatch.setenv("REDIS_URL", f"redis://{NOBODY}/0")
    once_per_environment.forget_all()
    assert sweep(steady.app) == {"overdue": 1}
    assert steady.messages == [("parse", job_id)]
    told = [line.getMessage() for line in caplog.records if line.name == "worker.sweeper"]
    assert [line for line in told if "limits failed" in line] == ["sweep: limits failed: LedgerDown"]


def test_a_reservation_is_ended_while_the_broker_is_away(steady: Broker, caplog: pytest.LogCaptureFixture) -> None:
    ledger().reserve("nobody's", 7, job_id="j", user_id=None, job_cap=None, lease_s=-1)
    job_id = submit()
    should_have_begun(job_id)
    point_celery_at(f"redis://{NOBODY}/0")
    assert sweep(steady.app) == {"reservations": 1}
    assert "sweep: overdue failed: " in caplog.text
    assert spent_and_reserved() == (0, 0)


def test_while_sql_is_away_nothing_is_done_and_silence_is_no_death_for_a_while_afterwards(
    simulator: Simulator, published: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("worker.sweeper.time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = sweeper._SqlWatch()

    def steady_after(seconds: float) -> bool:
        clock[0] += seconds
        return watch.is_steady()

    assert [steady_after(seconds) for seconds in (0, 5, sweeper.AFTER_OUTAGE_S)] == [False, False, True]
    with monkeypatch.context() as patched:
        patched.setenv("DATABASE_URL", f"postgresql://nobody@{NOBODY}/none")
        once_per_environment.forget_all()
        assert not steady_after(1)
        assert sweep(published.app) == {}
        assert "sweep: overdue failed: " in caplog.text
    once_per_environment.forget_all()
    assert [steady_after(seconds) for seconds in (0, 5, sweeper.AFTER_OUTAGE_S)] == [False, False, True]
