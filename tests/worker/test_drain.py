"""What dead workers left on disk: whoever drains it, however often and while whatever is away, it counts once."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db.models import AttemptState, Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    Killed,
    attempts,
    die_over_an_outage,
    end_all_leases,
    lost_database,
    outage,
    run,
    spent_and_reserved,
    submit,
)
from worker.app import app
from worker.outcome import from_json
from worker.spool import drain
from worker.sweeper import _end_overdue, _free_orphans

pytestmark = pytest.mark.xdist_group("litellm")


def test_while_sql_is_still_away_the_spool_is_left_alone(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(submit())
    with monkeypatch.context() as patch:
        patch.setattr("db.attempts.close", lost_database)
        assert drain(app) == 0
    assert drain(app) == 1


def test_an_outcome_of_a_live_worker_is_not_drained_by_others(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained: list[int] = []
    from db import attempts as module

    close = module.close

    def away_then_others_look(*arguments: Any) -> bool:
        if not list(spool.glob("*.json")):
            return lost_database()
        monkeypatch.setattr(module, "close", close)
        drained.append(drain(app))
        return lost_database()

    monkeypatch.setattr(module, "close", away_then_others_look)
    run(submit())
    assert drained == [0]
    assert list(spool.iterdir()) == []


def test_of_two_that_drain_at_once_each_leaves_the_other_what_it_has(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit(), submit()]
    for job_id in ids:
        with monkeypatch.context() as patch:
            outage(patch, spool, 9, killed=True)
            with pytest.raises(Killed):
                run(job_id)
    others: list[int] = []

    def another_comes(text: str) -> Any:
        # once, while we hold the first file
        if not others:
            others.append(0)
            others[0] = drain(app)
        return from_json(text)

    monkeypatch.setattr("worker.spool.from_json", another_comes)
    assert (drain(app), others) == (1, [1])
    assert list(spool.iterdir()) == []
    with read() as session:
        assert {session.get_one(Job, job_id).state for job_id in ids} == {JobState.SUCCEEDED}
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_what_is_drained_twice_changes_nothing_the_second_time(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.fault(fault="refusal")
    job_id = submit()
    die_over_an_outage(monkeypatch, spool, job_id)
    (file,) = spool.glob("*.json")
    text = file.read_text()
    assert drain(app) == 1
    with write() as session:
        session.get_one(Job, job_id).lease_until = utc_now() - timedelta(seconds=1)
    assert [job.id for job in _free_orphans()] == [job_id]
    file.write_text(text)
    assert drain(app) == 1
    (attempt,) = attempts()
    assert (attempt.state, attempt.cost_nano) == (AttemptState.FAILED, simulator.bill())
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.QUEUED
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_what_is_drained_while_the_ledger_is_away_is_settled_later(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    die_over_an_outage(monkeypatch, spool, job_id)
    with monkeypatch.context() as patch:
        patch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        once_per_environment.forget_all()
        assert drain(app) == 1
    once_per_environment.forget_all()
    assert list(spool.iterdir()) == []
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.SUCCEEDED
    spent, reserved = spent_and_reserved()
    assert (spent, reserved > 0) == (0, True)
    end_all_leases()
    assert _end_overdue() == 1
    assert spent_and_reserved() == (simulator.bill(), 0)


def test_a_file_that_cannot_be_understood_is_put_aside_and_blocks_nobody(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    die_over_an_outage(monkeypatch, spool, job_id)
    for number, text in enumerate(("{", "[]", "{}", '{"kind": "song"}')):
        (spool / f"{number}-bad.json").write_text(text)
    (spool / "5-folder.json").mkdir()
    assert drain(app) == 1
    assert sorted(path.suffix for path in spool.iterdir()) == [".bad"] * 5
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.SUCCEEDED


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_its_worker_was_killed_over_is_taken_up_after_a_while(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    job_id = submit()
    die_over_an_outage(monkeypatch, spool, job_id)
    (file,) = spool.glob("*.json")
    unfinished = file.rename(file.with_suffix(".part"))
    if not whole:
        unfinished.write_text(unfinished.read_text()[:40])
    assert drain(app) == 0, "its worker may be writing it"
    os.utime(unfinished, (0, 0))
    assert drain(app) == whole
    assert [path.suffix for path in spool.iterdir()] == ([] if whole else [".bad"])
