"""Things of which a process has exactly one."""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_all_made: list[dict[int, Any]] = []


def forget_everything() -> None:
    """Let all of them be made anew: for a program whose environment has changed, such as a test."""
    for made in _all_made:
        made.clear()


def once_per_process(make: Callable[[], T]) -> Callable[[], T]:
    """Call `make` at first use and hand out what it made from then on. Many threads that come at once wait for
    one of them (`functools.cache` would make several), and a forked child makes its own: connections, locks
    and threads do not survive a fork."""
    made: dict[int, T] = {}
    lock = threading.Lock()
    _all_made.append(made)

    def get() -> T:
        pid = os.getpid()
        if pid not in made:
            with lock:
                if pid not in made:
                    made[pid] = make()
        return made[pid]

    get.__doc__ = make.__doc__
    get.__name__ = make.__name__
    return get
