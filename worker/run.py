"""How a job runs: claim it, choose the models, make its calls one after another, and finish it, hand it back
for another try, or give it up. One claim is one run; a job may take several."""

import logging
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from budget.errors import BudgetExceeded, LedgerCold, LedgerError
from budget.ledger import ledger
from budget.money import nano_to_usd
from budget.rebuild import rebuild_if_cold
from budget.scopes import keys_of
from db import jobs
from db.environment import read_settings
from db.jobs import LEASE_S
from db.models import Attempt, AttemptState, Job, JobState, utc_now
from db.session import read
from db.writer import group_writer
from selection.errors import CannotSelect
from selection.reasons import Reason, after_failure
from selection.registry import Model, load_registry
from selection.select import Selection
from worker.attempt import Done, LostJob, NotRecorded, Plan, run_attempt, worst_case
from worker.choose import choose
from worker.errors import CallFailed, ErrorClass, InvalidJob, JobFailed
from worker.heartbeat import running
from worker.kind import JobKind, Request
from worker.settings import WorkerSettings
from worker.tokens import most_input_tokens

TRIES_PER_MODEL = 2
NOT_THE_MODELS_FAULT = ("late_record", "runner_lost")
FIRST_BACKOFF_S = 0.5
LONGEST_WAIT_S = 20.0
# while the ledger or the database is away
OUTAGE_WAIT_S = 3.0

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(eq=False)
class RunAgain(Exception):
    """The job should be tried again in `after_s` seconds; `why` is fit to be shown."""

    after_s: float
    why: str

    def __str__(self) -> str:
        return self.why


class UnknownJob(JobFailed):
    """A message named a job that SQL does not have."""


class NotOurs(Exception):
    """Somebody else runs the job: there is nothing to do and nothing to report."""


class Cancelled(Exception):
    """The job was cancelled, and whoever waits for it was told so."""


def run_job(kind: JobKind, job_id: str, progress: Progress) -> Any:
    """Run a job until it succeeds and return its result; `progress` is told (done, total) requests.

    Raises `JobFailed` if it never will succeed, `RunAgain` for another try, `NotOurs` if it is not ours."""
    with running(job_id) as runner:
        job = _tell_sql(lambda session: jobs.claim(session, job_id, runner))
        if job is None:
            return _outcome_of(kind, job_id)
        try:
            return _Run(kind, job, runner, progress).finish()
        except LostJob:
            raise NotOurs from None
        except (RunAgain, LedgerError, NotRecorded) as trouble:
            again = trouble if isinstance(trouble, RunAgain) else RunAgain(OUTAGE_WAIT_S, str(trouble))
            _tell_sql(lambda session: jobs.hand_back(session, job_id, runner, due_in_s=again.after_s))
            raise again from None
        except (SQLAlchemyError, OSError) as outage:
            # the job cannot be handed back: its lease lapses, and the sweeper publishes it
            raise RunAgain(LEASE_S, f"the database is away: {type(outage).__name__}") from None
        except Exception as error:
            failure = _as_failure(error)
            _give_up(kind, job_id, runner, failure)
            raise failure from None


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
        abandoned = jobs.close_abandoned(session, job_id)
        session.flush()
        jobs.fail(session, job_id, runner, failure.code, str(failure))
        return abandoned

    for attempt in _tell_sql(give_up):
        settle_from_sql(attempt, capped=kind.capped)
    logger.info("job %s failed: %s", job_id, failure)


def _outcome_of(kind: JobKind, job_id: str) -> Any:
    """What a message gets whose job cannot be claimed: the outcome, if there is one already."""
    with read() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id}", "unknown_job")
        if job.state == JobState.FAILED:
            raise JobFailed(job.error or "failed", job.error_code or "failed")
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
        self.history = self._close_abandoned() if job.runs > 1 else []
        self.payload = kind.payload(job.payload)
        self.requests: dict[str, list[Request]] = {}
        self.selection: Selection = choose(kind, self.payload, job.id, self._most_input)
        self.kept: Any = None
        self.metadata: dict[str, Any] = {}

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
        with read() as session:
            return self.kind.result(self.kind.load(session, self.job.id, self.kept), self.metadata)

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
            abandoned = jobs.close_abandoned(session, self.job.id)
            return abandoned, jobs.attempts_of(session, self.job.id)

        abandoned, history = group_writer().commit(close)
        for attempt in abandoned:
            settle_from_sql(attempt, capped=self.kind.capped)
        return history

    def _models_left(self) -> list[Model]:
        """The candidates that have not failed for good here, best first; `JobFailed` if there is none."""
        failures = [a for a in self.history if a.state in (AttemptState.FAILED, AttemptState.UNKNOWN)]
        if len(failures) >= read_settings(WorkerSettings).llm_max_failures:
            last = failures[-1].error
            raise JobFailed(f"given up after {len(failures)} failed attempts, the last: {last}", "attempts")

        # a job with one candidate may use all its failures on it
        tries = TRIES_PER_MODEL if len(self.selection.candidates) > 1 else len(failures) + 1

        def ruled_out(model: Model) -> bool:
            own = [f for f in failures if f.model_name == model.id and f.error_code not in NOT_THE_MODELS_FAULT]
            return len(own) >= tries or any(f.error_class != ErrorClass.SAME for f in own)

        left = [model for model in self.selection.candidates if not ruled_out(model)]
        if not left:
            raise JobFailed(f"no model is left to try, the last failure: {failures[-1].error}", "no_model")
        return left

    def _call_within_budget(self, part: int, total: int, models: list[Model]) -> None:
        """Call the first model; where a budget has no room for it and the job allows, the next cheaper one
        that fits."""
        refused: BudgetExceeded | None = None
        for model in self._affordable_order(part, models):
            try:
                return self._call(part, total, model, downgraded=refused is not None)
            except BudgetExceeded as exceeded:
                refused = refused or exceeded
        raise JobFailed(str(refused), "budget")

    def _affordable_order(self, part: int, models: list[Model]) -> Iterator[Model]:
        yield models[0]
        if self.payload.on_budget != "downgrade":
            return
        costs = {model.id: worst_case(model, self._requests_for(model)[part]) for model in models}
        cheaper = [model for model in models if costs[model.id] < costs[models[0].id]]
        yield from sorted(cheaper, key=lambda model: -costs[model.id])

    def _call(self, part: int, total: int, model: Model, *, downgraded: bool) -> None:
        plan = self._plan(part, model, downgraded=downgraded)
        request = self._requests_for(model)[part]

        def keep(session: Session, done: Done) -> None:
            kept = self.kind.keep(session, self.job.id, part, done.data)
            if part == total - 1:
                self._succeed(session, plan, model, kept, done)

        try:
            run_attempt(plan, model, request, lambda answer: self.kind.read(self.payload, answer), keep)
        except CallFailed as failure:
            self._after_failure(failure)
        except LedgerCold:
            rebuild_if_cold(ledger())
            raise
        if part < total - 1:
            self._reload_history()

    def _plan(self, part: int, model: Model, *, downgraded: bool) -> Plan:
        strategy = self.selection.strategy
        reason = self.selection.reason
        # selection may come out otherwise than in the run before: what failed there is what tells a fallback
        codes = [a.error_code for a in self.history if a.error_code and a.model_name != model.id]
        if downgraded:
            reason = Reason.BUDGET_DOWNGRADE
        elif codes:
            reason = after_failure(codes[-1])
        elif model.id != self.selection.candidates[0].id:
            reason = Reason.MODEL_OF_EARLIER_PARTS
        return Plan(
            job_id=self.job.id,
            number=len(self.history) + 1,
            part=part,
            task_type=self.kind.name,
            user_id=self.job.user_id,
            api=self.job.api,
            strategy=strategy.name,
            reason=reason,
            job_cap=strategy.job_cap if self.kind.capped else None,
            runner=self.runner,
        )

    def _succeed(self, session: Session, plan: Plan, model: Model, kept: Any, done: Done) -> None:
        """Finish the job in the transaction of its last attempt."""
        tokens, cost = done.usage.total if done.usage else 0, done.cost
        for attempt in self.history:
            cost += attempt.cost_nano
            tokens += attempt.tokens_used if attempt.state == AttemptState.SUCCEEDED else 0
        self.kept = kept
        self.metadata = {
            "model_used": model.id,
            "processing_time_ms": round((utc_now() - self.job.started_at).total_seconds() * 1000),
            "tokens_used": tokens,
            "cost_usd": float(nano_to_usd(cost)),
            "quality_score": done.quality,
            "selection_reason": plan.reason,
            "complexity_score": self.selection.complexity,
            "fallback_used": plan.reason.startswith("fallback_"),
            "strategy": plan.strategy,
            "attempts": [
                *({"model": a.model_name, "state": str(a.state), "error": a.error} for a in self.history),
                {"model": model.id, "state": str(AttemptState.SUCCEEDED), "error": None},
            ],
        }
        outcome = {
            "result": kept,
            "model_metadata": self.metadata,
            "model_selection_strategy": plan.strategy,
            "total_cost_nano": cost,
        }
        jobs.succeed(session, self.job.id, outcome)

    def _after_failure(self, failure: CallFailed) -> NoReturn:
        if failure.error_class is ErrorClass.NEVER:
            raise JobFailed(failure.sentence, failure.code)
        self._reload_history()
        self._models_left()
        backoff = FIRST_BACKOFF_S * 2 ** len(self.history) * random.uniform(0.5, 1.5)
        if failure.error_class is ErrorClass.NEXT:
            backoff = FIRST_BACKOFF_S
        raise RunAgain(min(LONGEST_WAIT_S, failure.retry_after_s or backoff), failure.sentence)

    def _reload_history(self) -> None:
        with read() as session:
            self.history = jobs.attempts_of(session, self.job.id)


def settle_from_sql(attempt: Attempt, *, capped: bool) -> None:
    """Settle what SQL knows of an attempt. If the ledger is away, the sweeper comes back to it."""
    job_id = attempt.job_id if capped else None
    keys = keys_of(attempt.budget_day, attempt.budget_month, attempt.user_id, job_id)
    try:
        ledger().settle(attempt.id, keys, attempt.cost_nano)
    except LedgerError as error:
        logger.warning("attempt %s is settled later: %s", attempt.id, error)
