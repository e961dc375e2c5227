"""The leases of the jobs that run here: kept over an outage of SQL, and no longer than the run."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from db.loop import event_loop
from db.migrate import upgrade
from db.models import Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from tests.integration.conftest import wait_until
from worker.heartbeat import running


@pytest.fixture
def folder(environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database should be; until the folder is made, it is away."""
    monkeypatch.setattr("worker.heartbeat.LEASE_S", 0.3)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'later'}/jobs.db")
    once_per_environment.forget_all()
    return tmp_path / "later"


def add(job_id: str, runner: str) -> None:
    with write() as session:
        session.add(Job(id=job_id, kind="parse", state=JobState.RUNNING, queue="parse", payload={}, runner=runner))
    let_lapse(job_id)


def let_lapse(job_id: str) -> None:
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(hours=1)


def is_kept(job_id: str) -> bool:
    with read() as session:
        lease = session.get_one(Job, job_id).lease_until
    return lease is not None and lease > utc_now() - timedelta(minutes=30)


def is_kept_soon(job_id: str) -> None:
    let_lapse(job_id)
    wait_until(lambda: is_kept(job_id))


def test_leases_are_kept_again_once_sql_is_back(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running("j") as runner:
        wait_until(lambda: "leases could not be renewed: OperationalError" in caplog.text)
        folder.mkdir()
        upgrade()
        add("j", runner)
        is_kept_soon("j")


def test_a_job_is_kept_as_long_as_its_run_and_no_longer(folder: Path) -> None:
    folder.mkdir()
    upgrade()
    with running("long") as runner:
        add("long", runner)
        with running("short") as other:
            add("short", other)
            is_kept_soon("short")
        # a beat may have been under way: the second one from here on is not
        is_kept_soon("long")
        is_kept_soon("long")
        let_lapse("short")
        is_kept_soon("long")
        assert not is_kept("short")


def test_jobs_of_an_event_loop_that_stands_still_are_left_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.heartbeat.STANDSTILL_S", 0.2)
    folder.mkdir()
    upgrade()
    go_on = threading.Event()
    with running("j") as runner:
        add("j", runner)
        is_kept_soon("j")
        event_loop().call_soon_threadsafe(go_on.wait, 60)
        try:
            wait_until(lambda: "the event loop has stood still" in caplog.text)
            let_lapse("j")
            caplog.clear()
            wait_until(lambda: "the event loop has stood still" in caplog.text)
            assert not is_kept("j")
        finally:
            go_on.set()
        is_kept_soon("j")
