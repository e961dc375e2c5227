"""This process as a runner of jobs: its name, and the thread that keeps its leases alive."""

import logging
import os
import socket
import threading
import uuid

from db.jobs import LEASE_S, renew_leases
from db.once import once_per_process
from db.writer import group_writer

logger = logging.getLogger(__name__)


@once_per_process
def runner_id() -> str:
    """A name that no other process has, nor a later one on the same host. Its thread renews the leases of all
    jobs of this process for as long as the process lives."""
    name = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    threading.Thread(target=_beat, args=(name,), name="lease-heartbeat", daemon=True).start()
    return name


def _beat(name: str) -> None:
    pause = threading.Event()
    while not pause.wait(LEASE_S / 3) and runner_id.peek() == name:
        try:
            group_writer().commit(lambda session: renew_leases(session, name))
        except Exception as error:
            logger.warning("leases could not be renewed: %s", type(error).__name__)
