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

    def __init__(self, make: Callable[[], T]) -> None:
        self.__doc__ = make.__doc__
        self._make = make
        self._made: dict[int, T] = {}
        self._lock = threading.Lock()

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


class once_per_environment(once_per_process[T]):  # noqa: N801  # a decorator
    """The same for what depends on settings. It can be forgotten when the environment has changed, as in a test; what
    holds connections has a `dispose` that closes them then."""

    _all: ClassVar[list["once_per_environment[Any]"]] = []

    def __init__(self, make: Callable[[], T]) -> None:
        super().__init__(make)
        self._all.append(self)

    @classmethod
    def forget_all(cls) -> None:
        """Let all of them be made anew."""
        for one in cls._all:
            dispose = getattr(one.peek(), "dispose", None)
            one._made.clear()
            if dispose is not None:
                dispose()
