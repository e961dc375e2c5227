"""The life of one attempt: reserve -> record -> call -> outcome -> settle. Every way out of here says what
becomes of the reservation:

| way out                                        | SQL         | ledger                                   |
| ---------------------------------------------- | ----------- | ---------------------------------------- |
| no room in a budget, the breaker is open       | nothing     | nothing is held                          |
| ledger down or cold                            | nothing     | nothing is held, or as the next line     |
| could not be recorded                          | nothing     | released by the sweeper                  |
| recorded too late, or the job is another's     | `failed`, - | released                                 |
| answered and valid                             | `succeeded` | what the usage costs                     |
| failed, and the provider cannot have billed it | `failed`    | released                                 |
| failed, billed, usage known                    | `failed`    | what the usage costs                     |
| failed, billed, usage not known (timeout, cut) | `unknown`   | expired: the whole reservation           |
| usage missing or absurd in a good answer       | `succeeded` | expired: the whole reservation           |
| the worker dies during the call                | `unknown`   | expired, by the next run or the sweeper  |
| taken for dead, but the answer comes after all | its outcome | corrected to what the usage costs        |
| SQL is away when the call ends                 | its outcome | as above, once SQL is back: see spool.py |
| the ledger is gone when it should settle       | as above    | by the sweeper, from SQL                 |
"""

import logging
import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from budget.breaker import NOTHING_TOLD, BreakerState, Told, Verdict
from budget.errors import LedgerError
from budget.ledger import Reservation, ledger
from budget.money import Usage
from budget.rebuild import RECORD_DEADLINE_S
from db import attempts, changes
from db.environment import read_settings
from db.jobs import still_mine
from db.models import Attempt, AttemptState, CostBasis
from db.session import read
from db.writer import group_writer
from selection.registry import Model, load_registry
from worker import spool
from worker.errors import CallFailed
from worker.gateway import call
from worker.kind import Answer, AnswerInvalid, JobKind, Request
from worker.loop import run_on_loop
from worker.outcome import Outcome
from worker.settings import WorkerSettings
from worker.shutdown import overtime
from worker.tokens import most_input_tokens

# When the sweeper first asks SQL about a reservation. By then it is recorded, or it never will be called; a call
# that is under way is left alone for as long as its runner lives.
RESERVATION_LEASE_S = 3 * RECORD_DEADLINE_S

# what SQLAlchemy raises while a database is away, full or too busy
OUTAGES = (OperationalError, InterfaceError, PoolTimeout)
OUTAGE_PAUSE_S = 0.5

# the longest that a job waits before it tries again; what a provider asks for beyond it closes the model to all, for
# an hour at most
LONGEST_WAIT_S = 20.0
LONGEST_CLOSED_S = 3600

logger = logging.getLogger(__name__)


class NotRecorded(Exception):
    """The attempt could not be recorded in time, so the call was not made and nothing was charged."""


class LostJob(Exception):
    """Another runner has the job by now; this one must let go of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an attempt is for. `job_cap` in nano-USD."""

    job_id: str
    number: int
    part: int
    kind: JobKind
    model: Model
    user_id: str | None
    api: str | None
    strategy: str
    reason: str
    job_cap: int | None
    runner: str


@dataclass(frozen=True, slots=True)
class Done:
    """A call that has ended: the data of its answer, its usage and cost in nano-USD, how that is known, and how long
    it took."""

    data: Any
    usage: Usage | None
    cost: int
    basis: CostBasis
    quality: float | None
    milliseconds: int


Read = Callable[[Answer], tuple[Any, float | None]]
# what finishes the job after this answer, None while calls are left
Finish = Callable[[Done], dict[str, Any] | None]


def worst_case(model: Model, request: Request) -> int:
    """The most that the provider can bill for this request, in nano-USD."""
    provider = load_registry().provider_of(model)
    return model.rates.worst_case(most_input_tokens(request.texts, model, provider), request.max_tokens)


def run_attempt(plan: Plan, request: Request, read: Read, finish: Finish) -> None:
    """Make one call and pay for it. `read` turns the answer into data, which are written in the transaction that
    records the outcome.

    Raises `BudgetExceeded`, `BreakerOpen`, `LedgerError`, `NotRecorded` or `LostJob` before any call, `CallFailed`
    after one."""
    model = plan.model
    deadline_s = read_settings(WorkerSettings).llm_call_deadline_s
    reserved_at = time.monotonic()
    reservation = ledger().reserve(
        uuid.uuid4().hex,
        worst_case(model, request),
        model=model.id,
        job_id=plan.job_id,
        user_id=plan.user_id,
        job_cap=plan.job_cap,
        lease_s=RESERVATION_LEASE_S,
        probe_s=math.ceil(deadline_s) + RESERVATION_LEASE_S,
    )
    _note_breaker(plan, reservation.breaker)
    _record(plan, reservation, reserved_at)
    called_at = time.monotonic()
    try:
        answer = run_on_loop(call(model, request, deadline_s))
        data, quality = _read(model, answer, read)
    except CallFailed as failure:
        _close_failed(plan, reservation, failure, called_at)
        raise
    except CancelledError:
        sentence = "the worker was stopped during the call; charged at the reservation"
        stopped = CallFailed("shutdown", sentence, billed=True)
        _close_failed(plan, reservation, stopped, called_at)
        raise stopped from None
    done = Done(data, answer.usage, *_billed(model, answer.usage, reservation), quality, _ms_since(called_at))
    _close(plan, reservation, AttemptState.SUCCEEDED, done, finish=finish(done))


def _billed(model: Model, usage: Usage | None, reservation: Reservation) -> tuple[int, CostBasis]:
    """What a call that the provider may have billed costs, and how that is known."""
    return (model.rates.cost(usage), CostBasis.USAGE) if usage else (reservation.amount, CostBasis.RESERVATION)


def _read(model: Model, answer: Answer, read: Read) -> tuple[Any, float | None]:
    try:
        return read(answer)
    except AnswerInvalid as trouble:
        sentence = f"{model.id} gave an answer that does not validate: {trouble}"
        raise CallFailed("invalid_answer", sentence, billed=True, usage=answer.usage) from None
    except Exception as error:
        # ours, not the model's; but what was paid for is booked, and the job goes on to the next model
        sentence = f"the answer of {model.id} could not be read: {type(error).__name__}"
        raise CallFailed("unreadable", sentence, billed=True, usage=answer.usage) from None


def _record(plan: Plan, reservation: Reservation, reserved_at: float) -> None:
    """Write the attempt as `calling`, durably, and only if the job is still ours."""

    row = {
        "id": reservation.attempt_id,
        "job_id": plan.job_id,
        "number": plan.number,
        "part": plan.part,
        "model_name": plan.model.id,
        "provider": plan.model.provider,
        "task_type": plan.kind.name,
        "user_id": plan.user_id,
        "api": plan.api,
        "strategy": plan.strategy,
        "reason": plan.reason,
        "budget_day": reservation.day,
        "budget_month": reservation.month,
        "reserved_nano": reservation.amount,
    }

    def record(session: Session) -> bool:
        mine = still_mine(session, plan.job_id, plan.runner)
        if mine:
            attempts.record(session, row)
        return mine

    try:
        mine = group_writer().commit(record)
    except Exception as error:
        # it may have been committed all the same: the sweeper asks SQL when the reservation's lease ends
        raise NotRecorded(f"the database did not take the attempt: {type(error).__name__}") from error
    if not mine:
        _end(plan, reservation, CostBasis.NOT_BILLED, 0)
        raise LostJob(plan.job_id)
    if time.monotonic() - reserved_at > RECORD_DEADLINE_S:
        # a ledger that was rebuilt meanwhile may not hold this attempt: see budget/rebuild.py
        failure = CallFailed("late_record", "recorded too late to be called", billed=False)
        _close_failed(plan, reservation, failure, reserved_at)
        raise NotRecorded("the database took too long to record the attempt")


def _close_failed(plan: Plan, reservation: Reservation, failure: CallFailed, called_at: float) -> None:
    cost, basis = _billed(plan.model, failure.usage, reservation) if failure.billed else (0, CostBasis.NOT_BILLED)
    state = AttemptState.UNKNOWN if basis is CostBasis.RESERVATION else AttemptState.FAILED
    done = Done(None, failure.usage, cost, basis, None, _ms_since(called_at))
    logger.info("job %s attempt %d: %s", plan.job_id, plan.number, failure.sentence)
    _close(plan, reservation, state, done, failure=failure)


def _close(
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
        values |= {"processing_time_ms": done.milliseconds, "quality_score": done.quality}
    if failure is not None:
        values |= {"error_class": failure.error_class, "error_code": failure.code, "error": failure.sentence}

    outcome = Outcome(
        reservation.attempt_id,
        plan.job_id,
        plan.kind.name,
        plan.part,
        reservation.scope_keys,
        values,
        done.data,
        finish,
    )
    mine = _write_down(outcome, plan.kind)
    if done.cost > reservation.amount:
        logger.warning(
            "overrun: attempt %s cost %d nano-USD, more than the %d that were reserved as its worst case",
            reservation.attempt_id, done.cost, reservation.amount,
        )  # fmt: skip
    if not mine:
        # we were taken for dead: SQL may know better than we do, and the job is another runner's
        with read() as session:
            row = session.get_one(Attempt, reservation.attempt_id)
        _end(plan, reservation, row.cost_basis or done.basis, row.cost_nano)
        raise LostJob(plan.job_id)
    _end(plan, reservation, done.basis, done.cost, _told(failure))


def _write_down(outcome: Outcome, kind: JobKind) -> bool:
    """Write the outcome to SQL. While SQL is away, it is kept on disk and this thread waits: no new call starts
    without SQL, and the job stays ours."""

    def write(session: Session) -> bool:
        return outcome.write(session, kind)

    try:
        return group_writer().commit(write)
    except OUTAGES as outage:
        logger.error("attempt %s waits for the database on disk: %s", outcome.attempt_id, type(outage).__name__)
    with ExitStack() as kept:
        try:
            kept.enter_context(spool.keep(outcome))
        except OSError as full:
            logger.error("attempt %s waits in memory only: the spool gave %s", outcome.attempt_id, full.strerror)
        while not overtime.wait(OUTAGE_PAUSE_S):
            with suppress(*OUTAGES):
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


def _end(plan: Plan, reservation: Reservation, basis: CostBasis, cost: int, told: Told = NOTHING_TOLD) -> None:
    try:
        changed = ledger().conclude(
            reservation.attempt_id, reservation.scope_keys, basis, cost, plan.model.id, told
        )  # fmt: skip
    except LedgerError as error:
        # the sweeper settles it from SQL when the reservation's lease ends
        logger.warning("attempt %s is settled later: %s", reservation.attempt_id, error)
    else:
        _note_breaker(plan, changed)


def _note_breaker(plan: Plan, changed: BreakerState | None) -> None:
    """Record that the model's breaker has changed. Nothing hangs on it."""
    if changed is None:
        return
    logger.warning("breaker of %s: %s", plan.model.id, changed)
    with suppress(*OUTAGES):
        group_writer().commit(
            lambda session: changes.record(session, "breaker", plan.model.id, None, changed, plan.runner)
        )


def _ms_since(moment: float) -> int:
    return round(1000 * (time.monotonic() - moment))
