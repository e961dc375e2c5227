"""What this process knows of SQL and reads again every now and then, not on the way of each job."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from db.loop import wait_for
from worker.loop import blocking

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Renewed(Generic[T]):
    """A value that is read again when it is older than `every_s`: one caller does so while the others go on with the
    one there is. While SQL is away the old one holds."""

    def __init__(self, what: str, read: Callable[[], T], first: T, every_s: float) -> None:
        self._what = what
        self._read = read
        self._value = first
        self._every_s = every_s
        self._read_at = float("-inf")
        self._lock = threading.Lock()
        self._reading: Future[None] | None = None

    def __call__(self) -> T:
        age = self._age()
        if age > self._every_s:
            with self._lock:
                reading = self._reading
                if mine := reading is None and self._age() > self._every_s:
                    self._reading = Future()
            if mine:
                self._renew()
            elif reading is not None and age > 2 * self._every_s:
                # a little too old would do meanwhile; this is not
                wait_for(reading)
        return self._value

    def _age(self) -> float:
        return time.monotonic() - self._read_at

    def _renew(self) -> None:
        try:
            self._value = blocking(self._read)()
        except SQLAlchemyError as error:
            logger.warning("%s could not be read: %s", self._what, type(error).__name__)
        finally:
            with self._lock:
                self._read_at = time.monotonic()
                reading, self._reading = self._reading, None
            if reading is not None:  # pragma: no branch  # for the type checker
                reading.set_result(None)
