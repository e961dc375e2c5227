"""The Celery task of every kind of job. Its message carries nothing: the task id is the job id, and the job
is in SQL."""

import logging
from typing import Any

from amqp.exceptions import NotFound
from celery import Task
from celery.exceptions import Ignore, Reject
from celery.result import AsyncResult
from celery.utils import uuid
from kombu.exceptions import OperationalError
from kombu.utils import json
from sqlalchemy.exc import SQLAlchemyError

from db.jobs import LEASE_S, cancel
from db.models import Job
from db.session import read, write
from worker.errors import Cancelled, Deferred, InvalidJob, JobFailed, NotOurs, RunAgain, UnknownJob
from worker.kind import JobKind
from worker.loop import blocking, wait_until
from worker.results import DEFERRED
from worker.submit import accept, accept_invalid, due_in, fields_of
from worker.traces import headers, span

# how long a message waits to come again that the broker would not take anew
REFUSED_WAIT_S = 3.0

logger = logging.getLogger(__name__)


class JobTask(Task):  # type: ignore[type-arg]  # celery-types' generics exist for its checker only
    """A kind of job as an ordinary Celery task: `.delay(…)`, `.apply_async(…)`, `.s(…)`, `AsyncResult(id)`."""

    abstract = True
    typing = False
    max_retries = None
    # job failures are outcomes, not faults of the program: no traceback in the log
    throws = (JobFailed,)
    # no part of a result in logs and events
    resultrepr_maxsize = 0
    Request = "worker.request:QuietRequest"
    # whether it shares the event loop with other jobs, see worker/pool.py
    on_loop = False
    kind: JobKind

    def __init__(self, kind: JobKind) -> None:
        self.kind = kind
        self.name = f"tasks.{kind.name}"
        self.on_loop = kind.on_loop
        self.__doc__ = kind.__doc__

    @blocking
    def apply_async(  # type: ignore[override]  # Celery's own has 25 parameters; they pass through
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Accept a job and publish its id. `InvalidJob` names the field at fault; then nothing was accepted.

        If the broker is away, the job is accepted all the same and published later by the sweeper."""
        job_id = task_id or uuid()
        if options.get("retries"):
            # of a job that could not be written to SQL yet the payload is in the message only
            return super().apply_async(args, kwargs, task_id=job_id, **options)
        try:
            job = accept(self.kind, job_id, fields_of(self.kind, args, kwargs), due_in_s=due_in(options))
        except InvalidJob as error:
            if "parent_id" not in options:
                raise
            # the next step of a chain, published by a worker. If the step before it has run twice, it is there already
            with read() as session:
                if session.get(Job, job_id) is not None:
                    return self.AsyncResult(job_id)
            # else the step fails, and not the one before it
            return self._refuse_step(job_id, str(error))
        if job.id != job_id:
            return self._same_job(job.id, task_id)
        try:
            return self.publish(job_id, **{"queue": job.queue, **options})
        except Exception:
            # an option that Celery does not take, such as an unknown queue: whoever asked for it is told so
            with write() as session:
                cancel(session, job_id)
            raise

    def publish(self, job_id: str, **options: Any) -> AsyncResult[Any]:
        """Send the id of a job that was accepted. If the broker is away, the sweeper does so later."""
        try:
            return self.send(job_id, **options)
        # RabbitMQ has no place for what is to run later before its first worker has made it
        except (OperationalError, NotFound) as error:
            logger.warning("job %s is accepted, the sweeper will publish it: %s", job_id, type(error).__name__)
            return self.AsyncResult(job_id)

    def send(self, job_id: str, **options: Any) -> AsyncResult[Any]:
        """Send the id of a job that was accepted; errors of the broker are raised as they are."""
        with span("submit", "PRODUCER", job_id=job_id, kind=self.kind.name, queue=options["queue"]):
            if traced := headers():
                options["headers"] = {**(options.get("headers") or {}), **traced}
            return super().apply_async((), {}, task_id=job_id, **options)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What a worker does with a message, and what `parse(…)` does here and now."""
        from worker.run import run_job

        if self.request.called_directly:
            return self.apply(args, kwargs).get()
        job_id = str(self.request.id)
        try:
            if args or kwargs:
                self._accept_message(job_id, args, kwargs)
            with span("run", "CONSUMER", self.request.headers, job_id=job_id, kind=self.kind.name):
                result = run_job(self.kind, job_id, self._tell_progress, self._continuation())
        except UnknownJob:
            # sent by name, and without any field
            self._accept_message(job_id, args, kwargs)
            raise
        except Cancelled:
            raise Ignore from None
        except NotOurs:
            # the runner finishes its own message; but what hangs on this one (a chain) must not end with it
            if self.request.chain or self.request.chord or self.request.callbacks:
                self.retry(args=(), kwargs={}, countdown=LEASE_S)
            raise Ignore from None
        except Deferred as parked:
            self.update_state(state=DEFERRED, meta={"why": parked.why, "until": parked.until.isoformat()})
            raise Ignore from None
        except RunAgain as again:
            self.retry(args=(), kwargs={}, countdown=again.after_s, exc=again)
        except SQLAlchemyError as outage:
            # the payload is still in the message only
            why = RunAgain(LEASE_S, f"the database is away: {type(outage).__name__}")
            self.retry(countdown=LEASE_S, exc=why)
        # what runs in the caller's own process should get what a message would have brought
        return json.loads(json.dumps(result)) if self.request.is_eager else result

    def _same_job(self, job_id: str, wanted_id: str | None) -> AsyncResult[Any]:
        """The job that has the idempotency key already. It has its message; and what would hang on another's
        (`task_id`, a chain) cannot be hung on it."""
        if wanted_id is not None:
            raise InvalidJob(
                f"{self.kind.name}: field idempotency_key: job {job_id} has this key already, so it cannot get another "
                "task id, nor a place in a chain"
            )
        return self.AsyncResult(job_id)

    def _continuation(self) -> dict[str, Any] | None:
        """What must be published for this job instead of its bare id, because something hangs on its message: the
        rest of a chain, a chord, callbacks."""
        request = self.request
        if request.is_eager or not (request.chain or request.chord or request.callbacks or request.errbacks):
            return None
        signature = self.signature_from_request(request, (), {}, retries=request.retries + 1)
        return dict(json.loads(json.dumps(signature)))

    def _refuse_step(self, job_id: str, sentence: str) -> AsyncResult[Any]:
        accept_invalid(self.kind, job_id, sentence)
        self.backend.mark_as_failure(job_id, JobFailed(sentence, "invalid"))
        return self.AsyncResult(job_id)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Celery's own, into the queue that the message came from: after a delay RabbitMQ says so only in the last word
        of the routing key, and Celery would take the kind's usual queue."""
        came_by = str((self.request.delivery_info or {}).get("routing_key") or "")
        try:
            return super().retry(*args, **{"queue": came_by.rpartition(".")[2] or None, **options})
        except Reject:
            # The broker takes no message just now. Celery would tell all who wait that the job has failed.
            if not (self.request.args or self.request.kwargs or self._continuation()):
                raise Ignore from None  # the sweeper publishes its id
            from worker.shutdown import stopping

            # what hangs on this message is nowhere else, so it is to come again; but not at once and for ever
            wait_until(stopping, REFUSED_WAIT_S)
            raise Reject("the broker takes no message", requeue=True) from None

    def result_of(self, job: Job) -> Any:
        """The result of a job that has succeeded, from SQL."""
        with read() as session:
            return self.kind.result(self.kind.load(session, job.id, job.result), job.model_metadata or {})

    @blocking
    def _accept_message(self, job_id: str, args: Any, kwargs: Any) -> None:
        """The message comes from a program that only knows the broker, with the payload in its arguments."""
        try:
            job = accept(self.kind, job_id, fields_of(self.kind, args, kwargs), due_in_s=0, again=True)
            if job.id != job_id:
                self._same_job(job.id, job_id)
        except InvalidJob as error:
            accept_invalid(self.kind, job_id, str(error))
            raise JobFailed(str(error), "invalid") from None

    def _tell_progress(self, done: int, total: int) -> None:
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})
