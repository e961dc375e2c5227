"""What SIGTERM means to a worker: no new calls, a bounded time for those under way, and everything else is handed
back to the queue at no charge. A second SIGTERM ends the process at once; jobs and money are in SQL."""

import logging
import os
import signal
import threading
from typing import Any

from worker.loop import cancel_all

logger = logging.getLogger(__name__)

SHUTDOWN = "the worker is shutting down"

# no new call is made
stopping = threading.Event()
# those under way have had their time
overtime = threading.Event()


def begin(within_s: float) -> None:
    """Let calls that are under way end within so many seconds, and then give them up."""
    if stopping.is_set():
        return
    stopping.set()
    signal.signal(signal.SIGTERM, _exit_at_once)
    timer = threading.Timer(within_s, _give_up)
    timer.daemon = True
    timer.start()


def _give_up() -> None:
    overtime.set()
    if cancelled := cancel_all():
        logger.warning("shutdown: %d calls took too long; they are charged at their reservations", cancelled)


def _exit_at_once(*_: Any) -> None:
    os._exit(128 + signal.SIGTERM)  # pragma: no cover  # coverage ends with it; test_stopping looks at the exit code
