"""What is seen of runs and attempts from outside: the context of their log lines, their figures for Prometheus and
their spans. Nothing here may change what becomes of a job."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from structlog.contextvars import bind_contextvars, bound_contextvars

from db.jobs import Claim
from db.models import AttemptState
from worker import metrics, traces
from worker.errors import CallFailed, Deferred, JobFailed
from worker.plan import Done, Plan

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """What a run has come to: the job's cost so far in nano-USD, seconds inside provider calls, the last of them."""

    cost_nano: int = 0
    calling_s: float = 0.0
    last_call_s: float | None = None


_run: ContextVar[_Run] = ContextVar("run")


@contextmanager
def _harmless() -> Iterator[None]:
    """Whatever goes wrong while something is counted, such as a disk that is full: the job goes on."""
    try:
        yield
    except Exception as error:
        logger.warning("something was not counted: %s", type(error).__name__)


@contextmanager
def watched_run(kind: str, job: Claim) -> Iterator[None]:
    """One run of a job, from its claim on."""
    run = _Run()
    began = time.perf_counter()
    outcome = "again"
    token = _run.set(run)
    traces.describe(kind=kind, queue=job.queue, run=job.runs)
    with bound_contextvars(job_id=job.id, kind=kind, queue=job.queue, attempt=0, model=None, cost_nano=0):
        try:
            yield
            outcome = "succeeded"
            logger.info("job succeeded")
        except JobFailed as failure:
            outcome = "failed"
            traces.describe(error_code=failure.code)
            raise
        except Deferred:
            outcome = "deferred"
            raise
        finally:
            _run.reset(token)
            with _harmless():
                traces.describe(outcome=outcome, cost_nano=run.cost_nano)
                metrics.RUNS.labels(kind, outcome).inc()
                if outcome in ("succeeded", "failed"):
                    metrics.JOBS.labels(kind, job.queue, outcome).inc()
                metrics.OVERHEAD_SECONDS.labels(kind).observe(time.perf_counter() - began - run.calling_s)


def note_cost(nano: int) -> None:
    """The job has cost this much before, in nano-USD."""
    if (run := _run.get(None)) is not None:
        run.cost_nano = nano
        bind_contextvars(cost_nano=nano)


@contextmanager
def watched_attempt(plan: Plan) -> Iterator[None]:
    """One attempt, from its reservation to its settlement."""
    if (run := _run.get(None)) is not None:
        run.last_call_s = None
        # they stay for the lines that follow: it is the last one's outcome that ends the run
        bind_contextvars(attempt=plan.number, model=plan.model.id)
    with traces.span("attempt", attempt=plan.number, model=plan.model.id):
        yield


@contextmanager
def watched_call() -> Iterator[None]:
    """The provider's part of an attempt."""
    began = time.perf_counter()
    try:
        with traces.span("call", "CLIENT"):
            yield
    finally:
        if (run := _run.get(None)) is not None:
            run.last_call_s = time.perf_counter() - began
            run.calling_s += run.last_call_s


def attempt_ended(plan: Plan, state: AttemptState, done: Done, failure: CallFailed | None) -> None:
    """An attempt's outcome is written down."""
    with _harmless():
        _count_attempt(plan, state, done, failure.code if failure else None)


def _count_attempt(plan: Plan, state: AttemptState, done: Done, code: str | None) -> None:
    model, kind = plan.model.id, plan.kind.name
    metrics.ATTEMPTS.labels(model, kind, state, metrics.known_code(code)).inc()
    metrics.COST.labels(model, kind, done.basis).inc(done.cost)
    if done.usage is not None:
        metrics.TOKENS.labels(model, "input").inc(done.usage.input)
        metrics.TOKENS.labels(model, "output").inc(done.usage.output)
    traces.describe(cost_nano=done.cost, outcome=state, error_code=code)
    run = _run.get(None)
    if run is None:
        return
    if run.last_call_s is not None:
        metrics.PROVIDER_SECONDS.labels(model, kind).observe(run.last_call_s)
    note_cost(run.cost_nano + done.cost)
