"""Where `AsyncResult` looks: in Redis, which tells waiting programs at once, and where that knows nothing, in
SQL, which keeps every job."""

from contextvars import ContextVar
from typing import Any, cast

from celery import Celery, states
from celery._state import get_current_worker_task
from celery.backends.redis import RedisBackend
from celery.exceptions import TaskRevokedError
from redis import RedisError

from budget.pipe import Pipe
from db.loop import on_loop
from db.models import Job, JobState
from db.retention import sentence
from db.session import read
from worker.errors import JobFailed
from worker.loop import blocking

# the Celery state of a job that waits for a budget; `info` says why, and until when at the latest
DEFERRED = "DEFERRED"

STATES = {
    JobState.QUEUED: states.PENDING,
    JobState.RUNNING: states.STARTED,
    JobState.WAITING: states.RETRY,
    JobState.DEFERRED: DEFERRED,
    JobState.SUCCEEDED: states.SUCCESS,
    JobState.FAILED: states.FAILURE,
    JobState.CANCELLED: states.REVOKED,
}

# Whether this program will wait for what it publishes here. A server that publishes for others never does, and need
# not subscribe to the result of each job and unsubscribe again.
waited_for: ContextVar[bool] = ContextVar("waited_for", default=True)

# Results of one moment travel together, but for large ones: vectors.
LARGEST_TOGETHER = 100_000
REDIS = ("redis://", "rediss://")
TIMEOUT_S = 10
SET = """
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
"""

# what Redis may still say when SQL knows more
VAGUE = (states.PENDING, DEFERRED)


class JobBackend(RedisBackend):
    """Celery's Redis backend with a memory."""

    app: Celery
    _pipe: Pipe | None = None

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Get ready to wait for a task that is published now. No task waits for what it publishes."""
        if waited_for.get() and get_current_worker_task() is None:
            super().on_task_call(producer, task_id)

    def _store_result(self, task_id: str, result: Any, state: str, *arguments: Any, **options: Any) -> Any:
        """Celery looks first whether there is a success already. A success needs not: it is the same job's."""
        # not in the stubs
        celery, backend = cast("tuple[Any, Any]", (self, super()))
        if state != states.SUCCESS:
            return blocking(backend._store_result)(task_id, result, state, *arguments, **options)
        meta = celery._get_result_meta(result, state, None, options.get("request"))
        key, value = self.get_key_for_task(task_id), self.encode({**meta, "task_id": task_id})
        if not (on_loop() and self._sent_together(key, value)):
            # Celery's own way, which tries for a while
            blocking(celery._set_with_state)(key, value, state)
        return result

    def _sent_together(self, key: str, value: str | bytes) -> bool:
        """Keep a result and tell whoever waits for it, together with those of other jobs on the loop."""
        celery: Any = self
        if len(value) > LARGEST_TOGETHER or not str(celery.url).startswith(REDIS):
            return False
        try:
            # Celery takes URLs that redis-py does not: `ssl_cert_reqs=CERT_REQUIRED`
            self._pipe = self._pipe or Pipe(celery.url, TIMEOUT_S)
            self._pipe.ask(lambda _: ("EVAL", SET, 1, key, value, celery.expires or 0))
        except RedisError:
            return False
        return True

    @blocking
    def mark_as_failure(self, *arguments: Any, **options: Any) -> Any:
        """Celery's own, which also looks at next steps, and calls or publishes what is linked to errors."""
        return super().mark_as_failure(*arguments, **options)

    @blocking
    def on_chord_part_return(self, *arguments: Any, **options: Any) -> Any:
        """Celery's own."""
        return super().on_chord_part_return(*arguments, **options)

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """Celery's meta data of a task; of a job that Redis does not know, or not to its end, by its row."""
        meta: dict[str, Any] = super().get_task_meta(task_id, cache=cache)
        if meta["status"] == states.SUCCESS:
            return meta
        with read() as session:
            job = session.get(Job, task_id)
            if job is None or (meta["status"] not in VAGUE and not JobState(job.state).final):
                return meta
            if job.pruned_at is not None and job.state != JobState.CANCELLED:
                # `get()` must not return what looks like a result
                gone = JobFailed(sentence(job), job.error_code or "pruned")
                return {**meta, "task_id": task_id, "status": states.FAILURE, "result": gone}
            return {**meta, "task_id": task_id, "status": STATES[JobState(job.state)], "result": self._result(job)}

    def _result(self, job: Job) -> Any:
        if job.state == JobState.SUCCEEDED:
            self.app.loader.import_default_modules()
            # by way of the message format, so that it looks the same from here and from Redis
            task: Any = self.app.tasks[f"tasks.{job.kind}"]
            return self.decode(self.encode(task.result_of(job)))
        if job.state == JobState.CANCELLED:
            return TaskRevokedError(job.error or "cancelled")
        if job.state == JobState.FAILED:
            return JobFailed(job.error or "failed", job.error_code or "failed")
        if job.state == JobState.DEFERRED and job.due_at:
            return {"why": job.error, "until": job.due_at.isoformat()}
        return None
