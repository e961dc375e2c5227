"""SQL goes away while a call is under way: what was paid for is kept on disk, written once SQL is back, and counted
once."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from db.models import AttemptState, Job, JobState
from db.once import once_per_environment
from db.session import read
from tasks.kinds import Embed, Parse
from tests.worker.conftest import Simulator
from tests.worker.lab import (
    attempts,
    end_all_leases,
    lost_database,
    rows_total,
    run,
    spent_and_reserved,
    submit,
)
from worker.app import app
from worker.errors import NotOurs, RunAgain
from worker.outcome import from_json
from worker.shutdown import overtime
from worker.spool import drain
from worker.sweeper import _end_overdue

pytestmark = pytest.mark.xdist_group("litellm")


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("worker.closing.OUTAGE_PAUSE_S", 0.01)
    app.loader.import_default_modules()
    return tmp_path / "spool"


class Killed(BaseException):
    """SIGKILL, as far as a test process may."""


def outage(monkeypatch: pytest.MonkeyPatch, spool: Path, times: int, *, killed: bool = False) -> list[Path]:
    """SQL fails so many times when an outcome is written; the new files that were there the last time."""
    from db import attempts as module

    close, seen, before = module.close, [], {*spool.glob("*")}
    left = iter(range(times))

    def failing(*arguments: Any) -> bool:
        if next(left, None) is None:
            return close(*arguments)
        seen[:] = {*spool.glob("*")} - before
        if killed and seen:
            raise Killed
        return lost_database()

    monkeypatch.setattr(module, "close", failing)
    return seen


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


def test_what_is_drained_while_the_ledger_is_away_is_settled_later(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(job_id)
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


def test_a_file_that_cannot_be_understood_is_put_aside_and_blocks_nobody(
    simulator: Simulator, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(job_id)
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
    with monkeypatch.context() as patch:
        outage(patch, spool, 9, killed=True)
        with pytest.raises(Killed):
            run(job_id)
    (file,) = spool.glob("*.json")
    unfinished = file.rename(file.with_suffix(".part"))
    if not whole:
        unfinished.write_text(unfinished.read_text()[:40])
    assert drain(app) == 0, "its worker may be writing it"
    os.utime(unfinished, (0, 0))
    assert drain(app) == whole
    assert [path.suffix for path in spool.iterdir()] == ([] if whole else [".bad"])
