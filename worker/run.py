"""How a job runs: claim it, choose the models, make its calls one after another, and finish it, hand it back
for another try, or give it up. One claim is one run; a job may take several."""

import logging
import random
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from budget.errors import BreakerOpen, BudgetExceeded, LedgerCold, LedgerError
from budget.figures import scope_keys_of
from budget.ledger import ledger
from budget.rebuild import rebuild_if_cold
from db import jobs
from db.environment import read_settings
from db.jobs import LEASE_S
from db.models import Attempt, AttemptState, CostBasis, Job, JobState, utc_now
from db.retention import sentence as pruned_sentence
from db.session import read
from db.writer import group_writer
from selection.errors import CannotSelect
from selection.reasons import Reason, after_failure
from selection.registry import Model, load_registry
from selection.select import Selection
from worker.attempt import NotRecorded, run_attempt, worst_case
from worker.choose import choose
from worker.closing import LONGEST_WAIT_S, LostJob
from worker.errors import (
    NOT_THE_MODELS_FAULT,
    CallFailed,
    Cancelled,
    Deferred,
    ErrorClass,
    InvalidJob,
    JobFailed,
    NotOurs,
    RunAgain,
    UnknownJob,
)
from worker.heartbeat import running
from worker.kind import JobKind, Request
from worker.metrics import count_abandoned
from worker.plan import Done, Plan
from worker.refusals import note_refusal
from worker.settings import WorkerSettings
from worker.shutdown import stopping
from worker.tokens import most_input_tokens
from worker.watched import note_cost, watched_run

# in a row; then it is the next one's turn
TRIES_PER_MODEL = 2
FIRST_BACKOFF_S = 0.5
SHUTDOWN = "the worker is shutting down"
# while the ledger or the database is away
OUTAGE_WAIT_S = 3.0

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
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
        return _Run(kind, job, runner, progress).finish()
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
    def give_up(session: Session) -> Sequence[Attempt]:
        if not jobs.still_mine(session, job_id, runner):
            return []  # another runner has it by now, and its call is under way
        abandoned = jobs.close_abandoned(session, job_id)
        session.flush()
        jobs.fail(session, job_id, runner, failure.code, str(failure))
        return abandoned

    abandoned = _tell_sql(give_up)
    count_abandoned(abandoned)
    for attempt in abandoned:
        settle_from_sql(attempt, kind)
    logger.info("job %s failed: %s", job_id, failure)


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


class _Run:
    """One run of one job by this process."""

    def __init__(self, kind: JobKind, job: jobs.Claim, runner: str, progress: Progress) -> None:
        self.kind = kind
        self.job = job
        self.runner = runner
        self.progress = progress
        self.waited_ms, self.ready_at = job.waited_ms, job.claimed_at
        self.history = self._close_abandoned() if job.runs > 1 else []
        self.payload = kind.payload(job.payload)
        self.requests: dict[str, list[Request]] = {}
        self.selection: Selection = choose(kind, self.payload, job.id, self._most_input)

    def finish(self) -> Any:
        """Make the calls that are still to be made; the last one's outcome finishes the job."""
        models = self._models_left()
        paid = {attempt.part: attempt.model_name for attempt in self.history if attempt.state == AttemptState.SUCCEEDED}
        if paid:
            # whatever selection says by now: vectors of two models cannot be mixed
            models = [load_registry().models[name] for name in list(paid.values())[:1]]
        total = len(self._requests_for(models[0]))
        for part in range(total):
            if part not in paid:
                self._call_within_budget(part, total, models)
            if total > 1:
                self._tell_progress(part + 1, total)
        return _outcome_of(self.kind, self.job.id)

    def _tell_progress(self, done: int, total: int) -> None:
        try:
            self.progress(done, total)
        except Exception as error:
            # nobody's money or job depends on it
            logger.warning("job %s: progress could not be told: %s", self.job.id, type(error).__name__)

    def _requests_for(self, model: Model) -> list[Request]:
        if model.id not in self.requests:
            self.requests[model.id] = self.kind.requests(self.payload, model)
        return self.requests[model.id]

    def _most_input(self, model: Model) -> int:
        """The most input tokens that the provider can count for one of the job's requests."""
        provider = load_registry().provider_of(model)
        return max(most_input_tokens(request.texts, model, provider) for request in self._requests_for(model))

    def _close_abandoned(self) -> Sequence[Attempt]:
        """All attempts so far. Those that a dead runner left open are charged at their reservations."""

        def close(session: Session) -> tuple[Sequence[Attempt], Sequence[Attempt]]:
            if not jobs.still_mine(session, self.job.id, self.runner):
                raise LostJob(self.job.id)
            abandoned = jobs.close_abandoned(session, self.job.id)
            return abandoned, jobs.attempts_of(session, self.job.id)

        abandoned, history = group_writer().commit(close)
        count_abandoned(abandoned)
        note_cost(sum(attempt.cost_nano for attempt in history))
        for attempt in abandoned:
            settle_from_sql(attempt, self.kind)
        return history

    def _models_left(self) -> list[Model]:
        """The candidates that have not failed for good here, those that had fewer turns first, then the best first;
        `JobFailed` if there is none."""
        ended_badly = (AttemptState.FAILED, AttemptState.UNKNOWN)
        failures = [a for a in self.history if a.state in ended_badly and a.number > self.job.forgiven]
        if len(failures) >= read_settings(WorkerSettings).llm_max_failures:
            last = failures[-1].error
            raise JobFailed(f"given up after {len(failures)} failed attempts, the last: {last}", "attempts")

        own: dict[str, list[Attempt]] = {model.id: [] for model in self.selection.candidates}
        for failure in failures:
            if failure.model_name in own and failure.error_code not in NOT_THE_MODELS_FAULT:
                own[failure.model_name].append(failure)
        left = [
            model for model in self.selection.candidates
            if all(failure.error_class == ErrorClass.SAME for failure in own[model.id])
        ]  # fmt: skip
        if not left:
            raise JobFailed(f"no model is left to try, the last failure: {failures[-1].error}", "no_model")
        # in turns: one that was down a while ago may be the only one that is not down now
        return sorted(left, key=lambda model: len(own[model.id]) // TRIES_PER_MODEL)

    def _call_within_budget(self, part: int, total: int, models: list[Model]) -> None:
        """Call the first model that may be called. One whose breaker is open is passed over at no cost; where a budget
        has no room, the job's `on_budget` says what to do."""
        closed: list[BreakerOpen] = []
        refused: BudgetExceeded | None = None
        left = list(models)
        while left:
            model = left.pop(0)
            try:
                return self._call(part, total, model, refused=refused, closed=closed)
            except BreakerOpen as breaker:
                closed.append(breaker)
            except BudgetExceeded as exceeded:
                note_refusal(exceeded, self.job.user_id)
                refused = refused or exceeded
                left = self._cheaper(part, model, left) if self.payload.on_budget == "downgrade" else []
        if closed:
            # nothing is burnt: it may go on with one of these
            self._wait_until(min(breaker.until for breaker in closed), str(closed[0]))
        if refused is None:
            raise JobFailed("no model is left to try", "no_model")
        if self.payload.on_budget == "defer" and refused.resets_at is not None and not refused.never_fits:
            until = datetime.fromtimestamp(refused.resets_at, UTC)
            raise Deferred(str(refused), refused.code, until, refused.needed)
        raise JobFailed(str(refused), refused.code)

    def _cheaper(self, part: int, than: Model, models: list[Model]) -> list[Model]:
        """Those of `models` that cost less, dearest first."""
        costs = {model.id: worst_case(model, self._requests_for(model)[part]) for model in (than, *models)}
        cheaper = [model for model in models if costs[model.id] < costs[than.id]]
        return sorted(cheaper, key=lambda model: -costs[model.id])

    def _wait_until(self, moment: float, why: str) -> NoReturn:
        """Try again then: by Celery if that is soon, else parked in SQL."""
        wait_s = max(0.0, moment - time.time()) + random.uniform(0, FIRST_BACKOFF_S)
        if wait_s <= LONGEST_WAIT_S:
            raise RunAgain(wait_s, why)
        raise Deferred(why, "breaker_open", datetime.fromtimestamp(moment, UTC))

    def _call(
        self, part: int, total: int, model: Model, *, refused: BudgetExceeded | None, closed: list[BreakerOpen]
    ) -> None:
        if stopping.is_set():
            raise RunAgain(0, SHUTDOWN)
        plan = self._plan(part, model, self._reason(model, refused, closed))
        request = self._requests_for(model)[part]

        def finish(done: Done) -> dict[str, Any] | None:
            return self._finish(plan, done) if part == total - 1 else None

        try:
            run_attempt(plan, request, lambda answer: self.kind.read(self.payload, answer), finish)
        except CallFailed as failure:
            self._after_failure(failure)
        except LedgerCold:
            rebuild_if_cold(ledger())
            raise
        if part < total - 1:
            self._reload_history()
            # the parts of one run follow each other
            self.waited_ms, self.ready_at = 0, time.monotonic()

    def _reason(self, model: Model, refused: BudgetExceeded | None, closed: list[BreakerOpen]) -> str:
        """Why it is this model."""
        if refused is not None:
            return Reason.BUDGET_DOWNGRADE
        if closed:
            return after_failure("breaker_open")
        # selection may come out otherwise than in the run before: what failed there is what tells a fallback
        codes = [a.error_code for a in self.history if a.error_code and a.model_name != model.id]
        if codes:
            return after_failure(codes[-1])
        first = model.id == self.selection.candidates[0].id
        return self.selection.reason if first else Reason.MODEL_OF_EARLIER_PARTS

    def _plan(self, part: int, model: Model, reason: str) -> Plan:
        strategy = self.selection.strategy
        return Plan(
            job_id=self.job.id,
            number=len(self.history) + 1,
            part=part,
            kind=self.kind,
            model=model,
            user_id=self.job.user_id,
            api=self.job.api,
            strategy=strategy.name,
            reason=reason,
            job_cap=strategy.job_cap if self.kind.capped else None,
            runner=self.runner,
            waited_ms=self.waited_ms,
            ready_at=self.ready_at,
        )

    def _finish(self, plan: Plan, done: Done) -> dict[str, Any]:
        """What finishes the job in the transaction of its last attempt."""
        tokens = done.usage.total if done.usage else 0
        tokens += sum(attempt.tokens_used for attempt in self.history if attempt.state == AttemptState.SUCCEEDED)
        metadata = {
            "model_used": plan.model.id,
            "processing_time_ms": round((utc_now() - self.job.started_at).total_seconds() * 1000),
            "tokens_used": tokens,
            "cost_usd": None,  # known when the last attempt is written down
            "quality_score": done.quality,
            "selection_reason": plan.reason,
            "complexity_score": self.selection.complexity,
            "fallback_used": plan.reason.startswith("fallback_"),
            "strategy": plan.strategy,
            "attempts": [
                *({"model": a.model_name, "state": str(a.state), "error": a.error} for a in self.history),
                {"model": plan.model.id, "state": str(AttemptState.SUCCEEDED), "error": None},
            ],
        }
        return {"model_metadata": metadata, "model_selection_strategy": plan.strategy}

    def _after_failure(self, failure: CallFailed) -> NoReturn:
        if failure.error_class is ErrorClass.NEVER:
            raise JobFailed(failure.sentence, failure.code)
        self._reload_history()
        self._models_left()
        wait_s = FIRST_BACKOFF_S * random.uniform(0.5, 1.5)
        asked_s = failure.retry_after_s or 0
        if failure.error_class is ErrorClass.SAME and asked_s <= LONGEST_WAIT_S:
            # who asks for more has closed the model's breaker: another model is next, or the job is parked
            failures = sum(attempt.state != AttemptState.SUCCEEDED for attempt in self.history)
            wait_s = asked_s or min(LONGEST_WAIT_S * random.uniform(0.5, 1), wait_s * 2 ** min(failures, 8))
        raise RunAgain(wait_s, failure.sentence)

    def _reload_history(self) -> None:
        with read() as session:
            self.history = jobs.attempts_of(session, self.job.id)


def settle_from_sql(attempt: Attempt, kind: JobKind) -> None:
    """End the reservation of an attempt as SQL knows it. If the ledger is away, the sweeper comes back to it."""
    basis = attempt.cost_basis or CostBasis.RESERVATION
    try:
        scope_keys = scope_keys_of(attempt, kind.name)
        ledger().conclude(attempt.id, scope_keys, basis, attempt.cost_nano, attempt.model_name)
    except LedgerError as error:
        logger.warning("attempt %s is settled later: %s", attempt.id, error)
