"""The end of an attempt: its outcome is written to SQL, waiting for it if need be, then its reservation is ended, and
the model's breaker told."""

import logging
import math
from contextlib import ExitStack, suppress
from typing import Any

from sqlalchemy.orm import Session

from budget.breaker import NOTHING_TOLD, BreakerState, Told, Verdict
from budget.errors import LedgerError
from budget.figures import scope_keys_of
from budget.ledger import Reservation, ledger
from budget.money import Usage, nano_to_usd
from db import changes
from db.environment import read_settings
from db.models import Attempt, AttemptState, CostBasis
from db.session import read
from db.writer import group_writer
from worker import spool
from worker.errors import CallFailed
from worker.kind import JobKind
from worker.loop import blocking, wait_until
from worker.outcome import Outcome
from worker.plan import Done, Plan
from worker.settings import WorkerSettings
from worker.shutdown import overtime
from worker.traces import span
from worker.watched import attempt_ended

OUTAGE_PAUSE_S = 0.5

# the longest that a job waits before it tries again; what a provider asks for beyond it closes the model to all, for
# an hour at most
LONGEST_WAIT_S = 20.0
LONGEST_CLOSED_S = 3600

logger = logging.getLogger(__name__)


class LostJob(Exception):
    """Another runner has the job by now; this one must let go of it."""


def close(
    plan: Plan,
    reservation: Reservation,
    state: AttemptState,
    done: Done,
    failure: CallFailed | None = None,
    finish: dict[str, Any] | None = None,
) -> None:
    """Write the outcome to SQL, then settle. Once it is in SQL nothing is lost if the ledger is gone."""
    usage = done.usage or Usage(0)
    values: dict[str, Any] = {
        "state": state,
        "success": state is AttemptState.SUCCEEDED,
        "cost_nano": done.cost,
        "cost_basis": done.basis,
        "tokens_used": usage.total,
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cached_tokens": usage.cached,
        "reasoning_tokens": usage.reasoning,
    }
    if read_settings(WorkerSettings).track_model_performance:
        values |= {
            "overhead_ms": done.overhead_ms,
            "processing_time_ms": done.milliseconds,
            "quality_score": done.quality,
        }
    if failure is not None:
        values |= {"error_class": failure.error_class, "error_code": failure.code, "error": failure.sentence}

    outcome = Outcome(
        reservation.attempt_id,
        plan.job_id,
        plan.kind.name,
        plan.part,
        plan.model.id,
        reservation.scope_keys,
        values,
        done.data,
        finish,
    )
    mine = _write_down(outcome, plan.kind)
    # from here on the job's lines say what it has cost with this call
    attempt_ended(plan, state, done, failure)
    _log(plan, state, done, failure)
    if done.cost > reservation.amount:
        logger.warning(
            "overrun: attempt %s cost %d nano-USD, more than the %d that were reserved as its worst case",
            reservation.attempt_id, done.cost, reservation.amount,
        )  # fmt: skip
    if not mine:
        # we were taken for dead: SQL may know better than we do, and the job is another runner's
        row = _row(reservation.attempt_id)
        end(plan, reservation, row.cost_basis or done.basis, row.cost_nano)
        raise LostJob(plan.job_id)
    end(plan, reservation, done.basis, done.cost, _told(failure))


@blocking
def _row(attempt_id: str) -> Attempt:
    with read() as session:
        return session.get_one(Attempt, attempt_id)


def _log(plan: Plan, state: AttemptState, done: Done, failure: CallFailed | None) -> None:
    """The attempt's one line of performance: figures and names of ours, nothing of the job's text."""
    settings = read_settings(WorkerSettings)
    if not settings.track_model_performance:
        return
    level = logging.getLevelNamesMapping()[settings.model_performance_log_level]
    logger.log(
        level,
        "performance: job %s attempt %d part %d %s %s: %s%s, waited %d ms, overhead %s ms, provider %s ms, "
        "%d tokens, %s USD",
        plan.job_id, plan.number, plan.part, plan.kind.name, plan.model.id, state,
        f" ({failure.code})" if failure else "", plan.waited_ms, _shown(done.overhead_ms), _shown(done.milliseconds),
        done.usage.total if done.usage else 0, f"{nano_to_usd(done.cost):f}",
    )  # fmt: skip


def _shown(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else str(milliseconds)


def _write_down(outcome: Outcome, kind: JobKind) -> bool:
    """Write the outcome to SQL. While SQL is away, it is kept on disk and this job waits: no new call starts
    without SQL, and the job stays ours."""

    def write(session: Session) -> bool:
        return outcome.write(session, kind)

    try:
        return group_writer().commit(write)
    except spool.OUTAGES as outage:
        logger.error("attempt %s waits for the database on disk: %s", outcome.attempt_id, type(outage).__name__)
    with ExitStack() as kept:
        try:
            blocking(kept.enter_context)(spool.keep(outcome))
        except OSError as full:
            logger.error("attempt %s waits in memory only: the spool gave %s", outcome.attempt_id, full.strerror)
        while not wait_until(overtime, OUTAGE_PAUSE_S):
            with suppress(*spool.OUTAGES):
                return group_writer().commit(write)
        # the worker is stopped; the next one finds it
        return group_writer().commit(write)


def _told(failure: CallFailed | None) -> Told:
    """What the end of a call says of its model."""
    if failure is None:
        return Told(Verdict.OK)
    wait_s = math.ceil(failure.retry_after_s or 0)
    # shorter waits are a matter of this job; longer ones concern every call
    closed_for_s = min(wait_s, LONGEST_CLOSED_S) if wait_s > LONGEST_WAIT_S else 0
    return Told(failure.verdict, closed_for_s)


def end(plan: Plan, reservation: Reservation, basis: CostBasis, cost: int, told: Told = NOTHING_TOLD) -> None:
    try:
        with span("settle"):
            changed = ledger().conclude(
                reservation.attempt_id, reservation.scope_keys, basis, cost, plan.model.id, told
            )  # fmt: skip
    except LedgerError as error:
        # the sweeper settles it from SQL when the reservation's lease ends
        logger.warning("attempt %s is settled later: %s", reservation.attempt_id, error)
    else:
        note_breaker(plan, changed)


def note_breaker(plan: Plan, changed: BreakerState | None) -> None:
    """Record that the model's breaker has changed. Nothing hangs on it."""
    if changed is None:
        return
    logger.warning("breaker of %s: %s", plan.model.id, changed)
    with suppress(*spool.OUTAGES):
        group_writer().commit(
            lambda session: changes.record(session, "breaker", plan.model.id, None, changed, plan.runner)
        )


def settle_from_sql(attempt: Attempt, kind: JobKind) -> None:
    """End the reservation of an attempt as SQL knows it. If the ledger is away, the sweeper comes back to it."""
    basis = attempt.cost_basis or CostBasis.RESERVATION
    try:
        scope_keys = scope_keys_of(attempt, kind.name)
        ledger().conclude(attempt.id, scope_keys, basis, attempt.cost_nano, attempt.model_name)
    except LedgerError as error:
        logger.warning("attempt %s is settled later: %s", attempt.id, error)
