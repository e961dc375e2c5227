"""Where the outcomes of paid calls wait while SQL is away: one file for each, synced to disk, in
`PAYMASTER_HOME/spool`. The worker that made the call writes it to SQL as soon as that is back; if the worker has died
meanwhile, the next worker or sweeper on this machine does."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from budget.errors import LedgerError
from budget.ledger import ledger
from db.writer import group_writer
from worker.kind import JobKind
from worker.outcome import Outcome, from_json

# what SQLAlchemy raises while a database is away, full, too busy, or a standby that takes no writes
OUTAGES = (OperationalError, InterfaceError, InternalError, PoolTimeout)

# a file that was not finished by then: its worker was killed over it
ABANDONED_AFTER_S = 60

logger = logging.getLogger(__name__)


def _folder() -> Path:
    return Path(os.environ.get("PAYMASTER_HOME", ".paymaster")) / "spool"


@contextmanager
def keep(outcome: Outcome) -> Iterator[None]:
    """Keep an outcome on disk while the block writes it to SQL. It stays there if the block fails, or this process
    dies in it. The file is locked, so that nobody else takes it up meanwhile."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # names sort by time, so that outcomes are drained in their order
    path = folder / f"{time.time_ns()}-{outcome.attempt_id}.json"
    unfinished = path.with_suffix(".part")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(outcome.to_json())
            file.flush()
            os.fsync(file.fileno())
            unfinished.rename(path)
            _sync(folder)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        yield
        path.unlink(missing_ok=True)


def drain(app: Celery) -> int:
    """Write to SQL what dead workers of this machine left, oldest first; the number of outcomes. While SQL is still
    away, the rest is left for the next time; a file that cannot be understood is put aside."""
    done = 0
    _take_up_abandoned()
    for path in sorted(_folder().glob("*.json")):
        try:
            done += _drain_one(path, app)
        except FileNotFoundError:
            continue  # somebody else was faster
        except OUTAGES as outage:
            logger.warning("the spool is drained later: %s", type(outage).__name__)
            break
        except Exception as error:
            logger.error("spool: %s cannot be written to the database: %s", path.name, type(error).__name__)
            path.rename(path.with_suffix(".bad"))
    return done


def _take_up_abandoned() -> None:
    """What a worker was killed over may be whole all the same; if it is not, it is put aside like any other."""
    for path in _folder().glob("*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                path.rename(path.with_suffix(".json"))


def _drain_one(path: Path, app: Celery) -> int:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # its worker lives
        outcome = from_json(file.read())
        task: Any = app.tasks[f"tasks.{outcome.kind}"]
        _write(outcome, task.kind)
        path.unlink(missing_ok=True)
    return 1


def _write(outcome: Outcome, kind: JobKind) -> None:
    group_writer().commit(lambda session: outcome.write(session, kind))
    try:
        ledger().conclude(outcome.attempt_id, outcome.scope_keys, outcome.basis, outcome.cost, outcome.model)
    except LedgerError as error:
        # the sweeper comes back to the reservation, and asks SQL
        logger.warning("attempt %s is settled later: %s", outcome.attempt_id, error)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
