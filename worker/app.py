"""The Celery app: `celery -A worker.app worker -Q parse,embed`, `… beat`, `… flower`."""

import gc
import logging
import sys
from typing import Any

from celery import Celery
from celery.signals import after_setup_logger, beat_init, task_revoked, worker_init, worker_ready

from db.environment import read_settings
from selection.registry import load_registry
from selection.strategies import find_strategy

app = Celery("paymaster", control="worker.control:Control")
app.config_from_object("celeryconfig")

# Every SQL statement lets go of the interpreter lock; at Python's 5 ms the one thread that commits for all others
# would wait that long to get it back, several times per job.
SWITCH_INTERVAL_S = 0.0005

QUIET = ("celery.app.trace", "celery.worker.strategy", "httpx", "LiteLLM")


@after_setup_logger.connect
def _quiet(**_: Any) -> None:
    """Celery's own line per received and finished task would double ours, at a third of a millisecond."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


@worker_init.connect
def _check_settings(**_: Any) -> None:
    """Refuse to start on a bad setting, rather than failing job by job."""
    from budget.settings import BudgetSettings
    from selection.settings import SelectionSettings
    from worker.settings import WorkerSettings

    read_settings(BudgetSettings)
    read_settings(WorkerSettings)
    load_registry()
    find_strategy(read_settings(SelectionSettings).model_selection_strategy)


@worker_ready.connect
def _settle_in(sender: Any = None, **_: Any) -> None:
    """Do what would make the first job wait; then freeze what start-up left, so that no later garbage
    collection walks through litellm's modules."""
    from worker.gateway import warm_up
    from worker.tokens import encodings

    if any(queue != "maintenance" for queue in sender.app.amqp.queues.consume_from):
        warm_up()
        encodings()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)


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
