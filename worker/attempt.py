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
from typing import Any

from sqlalchemy.orm import Session

from budget.ledger import Reservation, ledger
from budget.money import Usage
from budget.rebuild import RECORD_DEADLINE_S
from db import attempts
from db.environment import read_settings
from db.jobs import still_mine
from db.models import AttemptState, CostBasis
from db.writer import group_writer
from selection.registry import Model, load_registry
from worker.closing import LostJob, close, end, note_breaker
from worker.errors import CallFailed
from worker.gateway import call
from worker.kind import Answer, AnswerInvalid, Request
from worker.loop import run_on_loop
from worker.plan import Done, Plan
from worker.settings import WorkerSettings
from worker.shutdown import stopping
from worker.tokens import most_input_tokens
from worker.traces import span
from worker.watched import watched_attempt, watched_call

# When the sweeper first asks SQL about a reservation. By then it is recorded, or it never will be called; a call
# that is under way is left alone for as long as its runner lives.
RESERVATION_LEASE_S = 3 * RECORD_DEADLINE_S

logger = logging.getLogger(__name__)


class NotRecorded(Exception):
    """The attempt could not be recorded in time, so the call was not made and nothing was charged."""


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
    with watched_attempt(plan):
        _run_attempt(plan, request, read, finish)


def _run_attempt(plan: Plan, request: Request, read: Read, finish: Finish) -> None:
    model = plan.model
    deadline_s = read_settings(WorkerSettings).llm_call_deadline_s
    reserved_at = time.monotonic()
    with span("reserve"):
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
    note_breaker(plan, reservation.breaker)
    _record(plan, reservation, reserved_at)
    if stopping.is_set():
        stopped = CallFailed("shutdown", "the worker was stopped before the call", billed=False)
        _close_failed(plan, reservation, stopped)
        raise stopped
    called_at = time.monotonic()
    try:
        with watched_call():
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
    billed = _billed(model, answer.usage, reservation)
    done = Done(data, answer.usage, *billed, quality, *_times(plan, called_at))
    close(plan, reservation, AttemptState.SUCCEEDED, done, finish=finish(done))


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
        "queue_time_ms": plan.waited_ms if read_settings(WorkerSettings).track_model_performance else None,
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
        end(plan, reservation, CostBasis.NOT_BILLED, 0)
        raise LostJob(plan.job_id)
    if time.monotonic() - reserved_at > RECORD_DEADLINE_S:
        # a ledger that was rebuilt meanwhile may not hold this attempt: see budget/rebuild.py
        failure = CallFailed("late_record", "recorded too late to be called", billed=False)
        _close_failed(plan, reservation, failure)
        raise NotRecorded("the database took too long to record the attempt")


def _close_failed(plan: Plan, reservation: Reservation, failure: CallFailed, called_at: float | None = None) -> None:
    cost, basis = _billed(plan.model, failure.usage, reservation) if failure.billed else (0, CostBasis.NOT_BILLED)
    state = AttemptState.UNKNOWN if basis is CostBasis.RESERVATION else AttemptState.FAILED
    done = Done(None, failure.usage, cost, basis, None, *_times(plan, called_at))
    logger.info("job %s attempt %d: %s", plan.job_id, plan.number, failure.sentence)
    close(plan, reservation, state, done, failure=failure)


def _times(plan: Plan, called_at: float | None) -> tuple[int | None, int | None]:
    """Milliseconds of our own work before the call, and of the call, which ends now; None if there was no call."""
    if called_at is None:
        return None, None
    return round(1000 * (called_at - plan.ready_at)), round(1000 * (time.monotonic() - called_at))
