"""Things of which a process has exactly one."""

import os
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class once_per_process(Generic[T]):  # noqa: N801  # a decorator
    """Call the function at first use and hand out what it made from then on. Many threads that come at once wait
    for one of them (`functools.cache` would make several), and a forked child makes its own: connections, locks
    and threads do not survive a fork."""

    _all: ClassVar[list["once_per_process[Any]"]] = []

    def __init__(self, make: Callable[[], T]) -> None:
        self.__doc__ = make.__doc__
        self._make = make
        self._made: dict[int, T] = {}
        self._lock = threading.Lock()
        self._all.append(self)

    def __call__(self) -> T:
        pid = os.getpid()
        if pid not in self._made:
            with self._lock:
                if pid not in self._made:
                    self._made[pid] = self._make()
        return self._made[pid]

    def peek(self) -> T | None:
        """What was made, None if nothing was."""
        return self._made.get(os.getpid())

    @classmethod
    def forget_everything(cls) -> None:
        """Let all of them be made anew: for a program whose environment has changed, such as a test."""
        for one in cls._all:
            one._made.clear()
