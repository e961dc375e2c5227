"""What the worker tells the world about a message: never its arguments."""

from typing import Any

from celery.worker.request import Request


class QuietRequest(Request):
    """A request whose arguments show up neither in events nor in Flower nor in `inspect active`: a program
    that knows only the broker sends a whole posting in them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr, self._kwargsrepr = "()", "{}"

    def info(self, safe: bool = False) -> Any:
        return {**super().info(safe=safe), "args": [], "kwargs": {}}
