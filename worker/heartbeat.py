"""This process as a runner of jobs: its name, which jobs it is running, and the thread that keeps their leases
alive. A job whose run has ended here, in whatever way, is not kept: if SQL could not be told, its lease lapses and
the sweeper gives it to somebody else."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from db.jobs import LEASE_S, renew_leases
from db.loop import event_loop
from db.once import once_per_environment
from db.writer import group_writer

# A worker whose event loop has not turned for so long lets its leases lapse: whatever holds it up, its jobs stand
# still. It is far longer than anything on the loop takes.
STANDSTILL_S = 60

logger = logging.getLogger(__name__)

# runner -> job id, of the jobs that are running here
_running: dict[str, str] = {}


@once_per_environment
def _process() -> str:
    """A name that no other process has, nor a later one on the same host."""
    name = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    threading.Thread(target=_beat, args=(name,), name="lease-heartbeat", daemon=True).start()
    return name


@contextmanager
def running(job_id: str) -> Iterator[str]:
    """A new runner, for one run of a job. Once it has claimed the job, its lease is kept while the block runs."""
    runner = f"{_process()}:{uuid.uuid4().hex[:6]}"
    _running[runner] = job_id
    try:
        yield runner
    finally:
        del _running[runner]


def _beat(name: str) -> None:
    pause = threading.Event()
    turned_at = time.monotonic()

    def turn() -> None:
        nonlocal turned_at
        turned_at = time.monotonic()

    while not pause.wait(LEASE_S / 3) and _process.peek() == name:
        loop = event_loop.peek()
        turn() if loop is None else loop.call_soon_threadsafe(turn)
        stands_s = time.monotonic() - turned_at
        runners = dict(_running)
        try:
            if runners and stands_s > STANDSTILL_S:
                logger.error("the event loop has stood still for %d s; its jobs are left to others", stands_s)
            elif runners:
                group_writer().commit(partial(renew_leases, runners=runners))
        except Exception as error:
            logger.warning("leases could not be renewed: %s", type(error).__name__)
