"""The Celery app: `celery -A worker.app worker -Q parse,embed`, `… beat`, `… flower`."""

import gc
import math
import sys
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    setup_logging,
    task_revoked,
    worker_init,
    worker_ready,
    worker_shutting_down,
)
from celery.utils.time import maybe_iso8601

from worker.broker import mend_kombu
from worker.checks import check_database, check_settings
from worker.loop import blocking

# their names in URLs
RABBITMQ = ("amqp:", "amqps:", "pyamqp:")


CeleryAMQP: Any = AMQP


class Messages(CeleryAMQP):  # type: ignore[misc]  # celery-types knows little of it
    """Celery's messages, with callbacks and next steps that no job publishes on the event loop."""

    @blocking
    def _retry_publish(self, *arguments: Any, **options: Any) -> Any:
        """Celery's own. For a group it holds a connection of its pool from one message to the next: jobs on the loop
        that had all of them would wait for a loop that waits for a connection."""
        return super()._retry_publish(*arguments, **options)


class Paymaster(Celery):
    """Celery, with delays that RabbitMQ can keep."""

    amqp_cls = "worker.app:Messages"

    @blocking
    def send_task(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Celery's own. RabbitMQ keeps what is to run later for whole seconds; Celery cuts off the rest, so that a
        delay of less than one is an error."""
        if str(self.conf.broker_write_url or self.conf.broker_url).startswith(RABBITMQ):
            if (eta := maybe_iso8601(options.get("eta"))) is not None:
                # one without a zone is local time, as for the job itself
                options["eta"] = eta = eta if eta.tzinfo else eta.astimezone()
                if 0 < (eta - self.now()).total_seconds() < 1:
                    options |= {"eta": None, "countdown": 1}
            elif options.get("countdown"):
                options["countdown"] = math.ceil(options["countdown"])
        return super().send_task(name, *arguments, **options)


app = Paymaster("paymaster", control="worker.control:Control")
app.config_from_object("celeryconfig")

mend_kombu()


@setup_logging.connect
def _log(loglevel: int | None = None, **_: Any) -> None:
    """Celery leaves the logging of workers and beat to us."""
    from db.environment import SettingsError
    from worker.logs import setup

    try:
        setup(loglevel)
    except SettingsError as error:
        print(f"paymaster: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@worker_init.connect
@beat_init.connect
def _check_settings(**_: Any) -> None:
    """Refuse to start on a bad setting or schema, rather than failing job by job. (Signals swallow everything but
    this.)"""
    try:
        check_settings()
        check_database()
    except ValueError as error:
        print(f"paymaster: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@celeryd_after_setup.connect
def _check_options(instance: Any = None, **_: Any) -> None:
    if instance.autoscale:
        sentence = "--autoscale: the jobs of an event loop are not scaled; give -c instead"
        print(f"paymaster: {sentence}", file=sys.stderr)
        raise SystemExit(1)


@worker_init.connect
def _serve_metrics(**_: Any) -> None:
    try:
        from worker.metrics import serve

        serve()
    except ValueError as error:
        print(f"paymaster: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@worker_ready.connect
def _settle_in(sender: Any = None, **_: Any) -> None:
    """Do what would make the first job wait; then freeze what start-up left, so that no later garbage
    collection walks through litellm's modules."""
    from worker.gateway import warm_up
    from worker.spool import drain
    from worker.tokens import encodings

    if any(queue != "maintenance" for queue in sender.app.amqp.queues.consume_from):
        warm_up()
        encodings()
    drain(sender.app)
    gc.collect()
    gc.freeze()


@worker_shutting_down.connect
def _shut_down(**_: Any) -> None:
    from db.environment import read_settings
    from worker.settings import WorkerSettings
    from worker.shutdown import begin

    begin(read_settings(WorkerSettings).worker_shutdown_s)


@beat_init.connect
def _make_home(sender: Any = None, **_: Any) -> None:
    from pathlib import Path

    Path(app.conf.beat_schedule_filename).absolute().parent.mkdir(parents=True, exist_ok=True)


@task_revoked.connect
def _revoked(request: Any = None, **_: Any) -> None:
    """A message of a revoked job arrived: what `revoke()` could not reach in SQL is cancelled here."""
    from db.jobs import cancel
    from db.session import write

    with write() as session:
        cancel(session, request.id)
