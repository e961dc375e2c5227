"""The jobs as Celery tasks: `from tasks import parse, generate, embed`."""

from tasks.kinds import Embed, Generate, Parse
from worker.app import app
from worker.errors import InvalidJob, JobFailed
from worker.queues import check_kinds
from worker.task import JobTask

parse = app.register_task(JobTask(Parse()))
generate = app.register_task(JobTask(Generate()))
embed = app.register_task(JobTask(Embed()))

# by the name of the kind: whoever asks which kinds there are asks here, the HTTP API and the command line too
KINDS: dict[str, JobTask] = {task.kind.name: task for task in (parse, generate, embed)}
check_kinds(KINDS)

__all__ = ["KINDS", "InvalidJob", "JobFailed", "embed", "generate", "parse"]
