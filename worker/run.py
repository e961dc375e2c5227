"""How a job runs: claim it, let its calls be made, and finish it, hand it back for another try, or give it up. One
claim is one run; a job may take several."""

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from budget.errors import LedgerError
from db import jobs
from db.environment import read_settings
from db.jobs import LEASE_S
from db.models import Attempt, Job, JobState
from db.retention import sentence as pruned_sentence
from db.session import read
from db.writer import group_writer
from selection.errors import CannotSelect
from worker.attempt import NotRecorded
from worker.closing import LostJob, settle_from_sql
from worker.errors import (
    Cancelled,
    Deferred,
    InvalidJob,
    JobFailed,
    NotOurs,
    RunAgain,
    UnknownJob,
)
from worker.heartbeat import running
from worker.kind import JobKind
from worker.loop import blocking
from worker.metrics import count_abandoned
from worker.one_run import Progress, Run
from worker.settings import WorkerSettings
from worker.shutdown import SHUTDOWN, stopping
from worker.watched import watched_run

# while the ledger or the database is away
OUTAGE_WAIT_S = 3.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


def run_job(kind: JobKind, job_id: str, progress: Progress, message: dict[str, Any] | None = None) -> Any:
    """Run a job until it succeeds and return its result; `progress` is told (done, total) requests. `message` is
    what to publish for a job that is parked, if that is more than its id.

    Raises `JobFailed` if it never will succeed, `RunAgain` for another try, `Deferred` if it is parked, `NotOurs` if
    it is not ours."""
    if stopping.is_set():
        raise RunAgain(0, SHUTDOWN)
    with running(job_id) as runner:
        job = _tell_sql(lambda session: jobs.claim(session, job_id, runner))
        if job is None:
            return _outcome_of(kind, job_id)
        with watched_run(kind.name, job):
            return _run_claimed(kind, job, runner, progress, message)


def _run_claimed(
    kind: JobKind, job: jobs.Claim, runner: str, progress: Progress, message: dict[str, Any] | None
) -> Any:
    job_id = job.id
    try:
        _refuse_poison(job)
        result = Run(kind, job, runner, progress).finish()
    except LostJob:
        raise NotOurs from None
    except (RunAgain, LedgerError, NotRecorded) as trouble:
        again = trouble if isinstance(trouble, RunAgain) else RunAgain(OUTAGE_WAIT_S, str(trouble))
        _tell_sql(lambda session: jobs.hand_back(session, job_id, runner, due_in_s=again.after_s))
        raise again from None
    except Deferred as parked:
        parking = {"until": parked.until, "needed": parked.needed, "code": parked.code, "error": str(parked)}
        _tell_sql(lambda session: jobs.defer(session, job_id, runner, {**parking, "message": message}))
        raise
    except (SQLAlchemyError, OSError) as outage:
        # the job cannot be handed back: its lease lapses, and the sweeper publishes it
        raise RunAgain(LEASE_S, f"the database is away: {type(outage).__name__}") from None
    except Exception as error:
        failure = _as_failure(error)
        _give_up(kind, job_id, runner, failure)
        raise failure from None
    return _outcome_of(kind, job_id) if result is None else result


def _refuse_poison(job: jobs.Claim) -> None:
    """Whatever it is that ends the worker of this job again and again: it has had its chances."""
    if job.lost_runs >= read_settings(WorkerSettings).llm_max_lost_runs:
        raise JobFailed(f"given up after its worker was lost {job.lost_runs} times", "poison")


def _tell_sql(work: Callable[[Session], T]) -> T:
    try:
        return group_writer().commit(work)
    except SQLAlchemyError as outage:
        raise RunAgain(OUTAGE_WAIT_S, f"the database is away: {type(outage).__name__}") from None


def _as_failure(error: Exception) -> JobFailed:
    """The outcome for whoever submitted the job. Of an error that nobody foresaw the log gets the places and not
    the message, which may quote the job."""
    if isinstance(error, JobFailed):
        return error
    if isinstance(error, InvalidJob | CannotSelect):
        return JobFailed(str(error), "invalid")
    places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    logger.error("unforeseen %s at\n%s", type(error).__name__, places)
    return JobFailed(f"internal error ({type(error).__name__}); the worker's log says where", "internal")


def _give_up(kind: JobKind, job_id: str, runner: str, failure: JobFailed) -> None:
    """Write down that the job has failed; `NotOurs` if that is not for this runner to say."""

    def give_up(session: Session) -> Sequence[Attempt] | None:
        if not jobs.still_mine(session, job_id, runner):
            return None  # another runner has it by now, and its call is under way
        abandoned = jobs.close_abandoned(session, job_id)
        session.flush()
        jobs.fail(session, job_id, runner, failure.code, str(failure))
        return abandoned

    abandoned = _tell_sql(give_up)
    if abandoned is None:
        raise NotOurs
    count_abandoned(abandoned)
    for attempt in abandoned:
        settle_from_sql(attempt, kind)
    logger.info("job %s failed: %s", job_id, failure)


@blocking
def _outcome_of(kind: JobKind, job_id: str) -> Any:
    """What a message gets whose job cannot be claimed: the outcome, if there is one already."""
    with read() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id}", "unknown_job")
        if job.state == JobState.FAILED:
            raise JobFailed(job.error or "failed", job.error_code or "failed")
        if job.state == JobState.SUCCEEDED and job.pruned_at is not None:
            raise JobFailed(pruned_sentence(job), "pruned")
        if job.state == JobState.SUCCEEDED:
            return kind.result(kind.load(session, job_id, job.result), job.model_metadata or {})
        raise Cancelled if job.state == JobState.CANCELLED else NotOurs
