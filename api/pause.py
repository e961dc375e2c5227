"""Leaving alone for a moment what gave no answer, so that not every request waits for it anew."""

import time

PAUSE_S = 2.0


class Pause:
    """A part of the system that is asked no more for so long after it gave no answer."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self) -> None:
        """It gave no answer just now."""
        self._until = time.monotonic() + PAUSE_S

    @property
    def lasts(self) -> bool:
        return time.monotonic() < self._until
