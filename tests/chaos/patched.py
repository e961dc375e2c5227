"""What a worker of this suite imports as its Celery app: the product's own, with what `CHAOS` in its environment
orders. Nothing of it is known to the product.

`{"constants": {name: value}, "conf": {…}, "kill_at": [step, nth], "mutant": name, "fail_retries": n}`"""

import itertools
import json
import os
import sys
from typing import Any

import tasks.maintenance  # noqa: F401  # it registers what beat runs
import worker.gateway
import worker.run
import worker.sweeper  # noqa: F401
from tests.chaos.mutants import MUTANTS
from tests.chaos.steps import kill_at
from worker.app import app

OURS = ("budget", "db", "selection", "tasks", "worker")


def everywhere(name: str, value: Any) -> None:
    """Set a constant in every module of the product that has it."""
    holders = [m for n, m in list(sys.modules.items()) if n.partition(".")[0] in OURS and name in vars(m)]
    assert holders, name
    for module in holders:
        setattr(module, name, value)


def fail_retries(times: int) -> None:
    """The broker refuses so many messages of retries."""
    from kombu.exceptions import OperationalError

    from worker.task import JobTask

    publish, left = JobTask.apply_async, itertools.count(1)

    def apply_async(self: Any, *args: Any, **options: Any) -> Any:
        if options.get("retries") and next(left) <= times:
            print("CHAOS a retry is not published", flush=True)
            raise OperationalError("no broker")
        return publish(self, *args, **options)

    JobTask.apply_async = apply_async


def obey(orders: dict[str, Any]) -> None:
    for name, value in orders.get("constants", {}).items():
        everywhere(name, value)
    app.conf.update(orders.get("conf", {}))
    if every_s := orders.get("sweep_every_s"):
        app.conf.beat_schedule["sweep"]["schedule"] = every_s
        app.conf.beat_max_loop_interval = every_s
    if times := orders.get("fail_retries"):
        fail_retries(times)
    if step := orders.get("kill_at"):
        kill_at(*step)
    if mutant := orders.get("mutant"):
        MUTANTS[mutant]()


obey(json.loads(os.environ.get("CHAOS", "{}")))
