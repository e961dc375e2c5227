"""Where a worker can be killed in the life of an attempt, from inside: no signal from outside hits a step exactly."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

from worker import attempt, closing

# between the steps of worker/attempt.py and closing.py: reserve -> record -> call -> outcome -> settle
STEPS = ("reserved", "recorded", "calling", "answered", "written", "settled")
# until the request has left, and before the answer is there: the scenario's answers take longer
CALL_UNDER_WAY_S = 0.5


def kill_at(step: str, nth: int) -> None:
    """Have this process killed when its `nth` attempt comes to the step."""
    passed = itertools.count(1)

    def die() -> None:
        if next(passed) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    call = attempt.call

    def before(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            die()
            return work(*args, **kwargs)

        return wrapped

    def after(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = work(*args, **kwargs)
            die()
            return result

        return wrapped

    async def under_way(*args: Any) -> Any:
        asyncio.get_running_loop().call_later(CALL_UNDER_WAY_S, die)
        return await call(*args)

    patches = {
        "reserved": (attempt, "_record", before(attempt._record)),
        "recorded": (attempt, "_record", after(attempt._record)),
        "calling": (attempt, "call", under_way),
        "answered": (attempt, "close", before(attempt.close)),
        "written": (closing, "end", before(closing.end)),
        "settled": (closing, "end", after(closing.end)),
    }
    setattr(*patches[step])
