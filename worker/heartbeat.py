"""This process as a runner of jobs: its name, which jobs it is running, and the thread that keeps their leases
alive. A job whose run has ended here, in whatever way, is not kept: if SQL could not be told, its lease lapses and
the sweeper gives it to somebody else."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from db.jobs import LEASE_S, renew_leases
from db.once import once_per_environment
from db.writer import group_writer

logger = logging.getLogger(__name__)

_running: set[str] = set()


@once_per_environment
def runner_id() -> str:
    """A name that no other process has, nor a later one on the same host."""
    name = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    threading.Thread(target=_beat, args=(name,), name="lease-heartbeat", daemon=True).start()
    return name


@contextmanager
def kept_alive(job_id: str) -> Iterator[None]:
    """Renew the lease of a job while the block runs."""
    _running.add(job_id)
    try:
        yield
    finally:
        _running.discard(job_id)


def _beat(name: str) -> None:
    pause = threading.Event()
    while not pause.wait(LEASE_S / 3) and runner_id.peek() == name:
        job_ids = list(_running)
        try:
            if job_ids:
                group_writer().commit(lambda session: renew_leases(session, name, job_ids))  # noqa: B023  # waits
        except Exception as error:
            logger.warning("leases could not be renewed: %s", type(error).__name__)
