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
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> T:
        age = time.monotonic() - self._read_at
        # a little too old will do while somebody reads it anew; much too old will not
        if age > self._every_s and self._lock.acquire(blocking=age > 2 * self._every_s):
            try:
                if time.monotonic() - self._read_at > self._every_s:
                    self._value = self._read()
            except SQLAlchemyError as error:
                logger.warning("%s could not be read: %s", self._what, type(error).__name__)
            finally:
                self._read_at = time.monotonic()
                self._lock.release()
        return self._value
