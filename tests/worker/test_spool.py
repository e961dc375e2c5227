"""SQL goes away while a call is under way: what was paid for is kept on disk, written once SQL is back, and counted
once."""

import stat
from pathlib import Path
from typing import Any

import pytest

from db.models import AttemptState, Job, JobState
from db.session import read
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    Killed,
    attempts,
    end_all_leases,
    outage,
    rows_total,
    run,
    spent_and_reserved,
    submit,
)
from worker.app import app
from worker.errors import NotOurs, RunAgain
from worker.shutdown import overtime
from worker.spool import drain
from worker.sweeper import _end_overdue

pytestmark = pytest.mark.xdist_group("litellm")


@pytest.mark.parametrize(("kind", "fields"), [(Parse(), {}), (Embed(), {"texts": ["bread", "rolls"]})])
def test_an_outcome_waits_for_sql_and_nothing_is_paid_twice(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, fields: dict[str, Any]
) -> None:
    seen = outage(monkeypatch, spool, 5)
    assert run(submit(kind, **fields), kind)
    assert len(seen) == 1
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert list(spool.iterdir()) == []
    assert simulator.requests() == 1
    assert spent_and_reserved() == (simulator.bill(), 0)
    assert rows_total() == simulator.bill()


@pytest.mark.parametrize(("kind", "fields"), [(Parse(), {}), (Embed(), {"texts": ["bread", "rolls"]})])
def test_what_a_killed_worker_left_is_drained_once_and_the_job_is_done(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, fields: dict[str, Any]
) -> None:
    job_id = submit(kind, **fields)
    with monkeypatch.context() as patch:
        outage(patch, spool, 5, killed=True)
        with pytest.raises(Killed):
            run(job_id, kind)
    (file,) = spool.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert spent_and_reserved()[0] == 0
    assert (drain(app), drain(app)) == (1, 0)
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.SUCCEEDED
    assert run(job_id, kind)
    assert simulator.requests() == 1
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_worker_that_is_stopped_during_an_outage_leaves_the_outcome_to_the_next(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        outage(patch, spool, 9)
        overtime.set()
        try:
            with pytest.raises(RunAgain, match="the database is away"):
                run(job_id)
        finally:
            overtime.clear()
    assert [path.suffix for path in spool.iterdir()] == [".json"]
    assert drain(app) == 1
    assert run(job_id)
    assert simulator.requests() == 1
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_an_outcome_that_comes_after_its_attempt_was_given_up_corrects_the_cost(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(job_id)
        patch.setattr("worker.sweeper._is_under_way", lambda *_: False)
        end_all_leases()
        assert _end_overdue() == 1
    assert drain(app) == 1
    (attempt,) = attempts()
    assert (attempt.state, attempt.cost_nano) == (AttemptState.FAILED, simulator.bill())
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_with_a_full_disk_the_outcome_waits_in_memory(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.spool.os.fsync", full)
    outage(monkeypatch, spool, 3)
    run(submit())
    assert "waits in memory only: the spool gave No space left on device" in caplog.text
    assert list(spool.iterdir()) == []
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_job_that_was_taken_away_meanwhile_is_let_go(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    from db import attempts as module

    close = module.close

    def closed_by_another(session: Any, attempt_id: str, values: dict[str, Any]) -> bool:
        close(session, attempt_id, {**values, "cost_nano": 1})
        return close(session, attempt_id, values)

    monkeypatch.setattr(module, "close", closed_by_another)
    with pytest.raises(NotOurs):
        run(job_id)
