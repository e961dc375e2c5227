"""What the worker tells the world about a message: never its arguments."""

from datetime import datetime
from typing import Any, Literal

from celery.worker.request import Request


class QuietRequest(Request):
    """A request whose arguments show up neither in events nor in Flower nor in `inspect active`: a program
    that knows only the broker sends a whole posting in them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr, self._kwargsrepr = "()", "{}"

    def maybe_expire(self) -> Literal[True] | None:
        """Celery's own, but not for ever: the worker would throw away the job also when somebody starts it again."""
        expires: Any = self.expires
        return True if expires and datetime.now(expires.tzinfo) > expires else None

    def info(self, safe: bool = False) -> Any:
        return {**super().info(safe=safe), "args": [], "kwargs": {}}
