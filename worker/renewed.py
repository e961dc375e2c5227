"""What this process knows of SQL and reads again every now and then, not on the way of each job."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Renewed(Generic[T]):
    """A value that is read again when it is older than `every_s`: one thread does so while the others go on with the
    one there is. While SQL is away the old one holds."""

    def __init__(self, what: str, read: Callable[[], T], first: T, every_s: float) -> None:
        self._what = what
        self._read = read
        self._value = first
        self._every_s = every_s
        self._due = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> T:
        if time.monotonic() >= self._due and self._lock.acquire(blocking=False):
            try:
                self._value = self._read()
            except SQLAlchemyError as error:
                logger.warning("%s could not be read: %s", self._what, type(error).__name__)
            finally:
                self._due = time.monotonic() + self._every_s
                self._lock.release()
        return self._value
