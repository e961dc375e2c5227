"""One run of a job that is claimed: choose the models, and make its calls one after another."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from budget.errors import BreakerOpen, BudgetExceeded, LedgerCold
from budget.ledger import ledger
from budget.rebuild import rebuild_if_cold
from db import jobs
from db.environment import read_settings
from db.models import Attempt, AttemptState, utc_now
from db.session import read
from db.writer import group_writer
from selection.reasons import Reason, after_failure
from selection.registry import Model, load_registry
from selection.select import Selection
from worker.attempt import run_attempt, worst_case
from worker.choose import choose
from worker.closing import LONGEST_WAIT_S, LostJob, settle_from_sql
from worker.errors import NOT_THE_MODELS_FAULT, CallFailed, Deferred, ErrorClass, JobFailed, RunAgain
from worker.kind import JobKind, Request
from worker.loop import blocking
from worker.metrics import count_abandoned
from worker.plan import Done, Plan
from worker.refusals import note_refusal
from worker.settings import WorkerSettings
from worker.shutdown import SHUTDOWN, stopping
from worker.tokens import most_input_tokens
from worker.watched import note_cost

# in a row; then it is the next one's turn
TRIES_PER_MODEL = 2
FIRST_BACKOFF_S = 0.5

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class Run:
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
        self.finished: tuple[Any, dict[str, Any]] | None = None
        self.selection: Selection = choose(kind, self.payload, job.id, self._most_input)

    def finish(self) -> Any:
        """Make the calls that are still to be made; the last one's outcome finishes the job. Returns the job's result,
        or None if it must be read from SQL."""
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
        # without its cost SQL did not take it: the job was over
        taken = self.finished is not None and self.finished[1]["cost_usd"] is not None
        return self.kind.result(*self.finished) if self.finished and taken and self.kind.in_row else None

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
        if refused is None:  # pragma: no cover  # for the type checker: a model is passed over, refused or called
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
            blocking(rebuild_if_cold)(ledger())
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
        self.finished = (done.data, metadata)
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

    @blocking
    def _reload_history(self) -> None:
        with read() as session:
            self.history = jobs.attempts_of(session, self.job.id)
