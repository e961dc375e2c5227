"""Log lines: JSON for machines, or readable ones for a terminal. Every line that a job causes bears `job_id`, `kind`,
`queue`, `attempt`, `model` and `cost_nano`, whoever writes it (worker/watched.py binds them); and none holds a text of
a job or a key, since exceptions are shown by their type and places alone, and known secrets are taken out."""

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import structlog

from db.environment import read_settings
from worker.checks import hide_arguments
from worker.settings import WatchSettings

OURS = ("api", "budget", "cli", "db", "selection", "tasks", "watch", "worker")
# Celery's own lines per received and finished task would double ours, at a third of a millisecond
QUIET = ("celery.app.trace", "celery.worker.strategy", "celery.concurrency", "httpx", "LiteLLM", "aiohttp.access")
TALKATIVE = ("celery.app.trace", "celery.worker.consumer.consumer", "celery.worker.request")
SECRET_NAMES = ("_API_KEY", "_PASSWORD", "_SECRET", "_TOKEN", "_AUTH", "_URL", "_BACKEND", "_HEADERS")
# a URL that is a secret as a whole, since whoever knows it may post there
SECRET_URL = "ALERT_WEBHOOK_URL"  # noqa: S105  # its name
# a shorter one cannot be told from a word
SHORTEST_SECRET = 8

Event = MutableMapping[str, Any]


def setup(level: str | int | None = None, stream: TextIO | None = None) -> None:
    """Let all loggers of this process write such lines to `stream` (standard error). `level` is what somebody asked
    for on the command line: where it says more than LOG_LEVEL, it holds. That is so for our own loggers; libraries
    never say more than INFO, since below it they quote what they send."""
    settings = read_settings(WatchSettings)
    stream = stream or sys.__stderr__ or sys.stderr
    own = min(_number(settings.log_level), _number(level) or logging.CRITICAL)
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(console=console, colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(own, logging.INFO))
    for name in OURS:
        logging.getLogger(name).setLevel(own)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(own, logging.WARNING))
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(hide_arguments)
    logging.getLogger("asyncio").addFilter(_first_line)
    warnings.showwarning = _warned
    sys.excepthook = lambda *error: logging.getLogger("worker").critical("uncaught", exc_info=error)
    threading.excepthook = _thread_ended


def _number(level: str | int | None) -> int:
    return level if isinstance(level, int) else logging.getLevelNamesMapping().get(str(level).upper(), 0)


def _formatter(*, console: bool, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _places_only,
        _Redact(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: Any = structlog.processors.JSONRenderer()
    if console:
        last = structlog.dev.ConsoleRenderer(colors=colors)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
    )


def _places_only(_: Any, __: str, event: Event) -> Event:
    """An exception as its types and places. Its message may quote a job, or a row of the database."""
    told = event.pop("exc_info", None)
    event.pop("stack_info", None)
    error = told[1] if isinstance(told, tuple) else sys.exc_info()[1] if told is True else told
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_chain(error))
    return event


def _chain(error: BaseException | None) -> list[str]:
    parts: list[str] = []
    while error is not None and len(parts) < 10:
        places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        parts.append(f"{type(error).__name__} at\n{places}".rstrip())
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return parts


class _Redact:
    """Take the secrets of this process' environment out of lines: keys, and the passwords in URLs."""

    def __init__(self) -> None:
        self._secrets = [secret for secret in _secrets() if len(secret) >= SHORTEST_SECRET]

    def __call__(self, _: Any, __: str, event: Event) -> Event:
        for field in ("event", "exception"):
            text = event.get(field)
            if isinstance(text, str):
                event[field] = self.text(text)
        return event

    def text(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "(hidden)")
        return text


def redact(text: str) -> str:
    """The text without the secrets of this process' environment."""
    return _Redact().text(text)


def _secrets() -> set[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if not name.endswith(SECRET_NAMES):
            continue
        if "://" not in value:
            found |= {value, value.partition(":")[2], *(part.partition("=")[2] for part in value.split(","))}
        else:
            try:
                url = urlsplit(value)
                password = url.password or ""
            except ValueError:
                continue
            found |= {password, unquote(password), url.path if name == SECRET_URL else ""}
    # what the simulator takes is no secret, and a word
    return found - {"", "simulated"}


def _warned(
    message: Warning | str,  # not shown
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of Python's as its kind and place. Its text may quote what it is about: pydantic's do."""
    logging.getLogger("py.warnings").warning("%s at %s:%d", category.__name__, filename, lineno)


def _first_line(record: logging.LogRecord) -> bool:
    """A logging filter: below its first line asyncio quotes the exceptions of tasks."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def _thread_ended(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        logging.getLogger("worker").error("a thread ended", exc_info=told.exc_value)
