"""What workers count and time, for Prometheus; docs/observability.md lists it. With PROMETHEUS_MULTIPROC_DIR all
processes of a host keep their figures in files there, which `watch/metrics.py` adds up; else a worker serves its own on
METRICS_PORT. No label ever holds a user, and every label has few values."""

import fcntl
import os
import re
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import prometheus_client.values
from prometheus_client import Counter, Histogram, disable_created_metrics, start_http_server

from db.attempts import RUNNER_LOST
from db.environment import SettingsError, read_settings
from db.models import Attempt
from db.once import once_per_process
from worker.errors import BY_CODE
from worker.settings import WatchSettings

# what OpenAI and Anthropic call their errors, beside those that `BY_CODE` names
PROVIDERS_CODES = frozenset({
    "api_error", "authentication_error", "invalid_api_key", "invalid_request_error", "not_found_error",
    "overloaded_error", "permission_error", "rate_limit_error", "rate_limit_exceeded", "request_too_large",
    "server_error", "tokens", "requests", "timeout_error", "billing_error",
})  # fmt: skip
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

disable_created_metrics()  # type: ignore[no-untyped-call]


@once_per_process
def _slot() -> int:
    """A number that no other living process has. Whoever gets the number of a dead one goes on from its figures:
    nothing that was counted is lost, and there are never more files than there were processes at once."""
    folder = Path(os.environ[FOLDER])
    for number in count():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise SettingsError(f"{FOLDER}: {folder} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            return number  # locked for as long as this process lives
    raise AssertionError("there is always another number")  # pragma: no cover  # which is why nothing comes here


if os.environ.get(FOLDER):
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(_slot)  # type: ignore[no-untyped-call]

JOBS = Counter(
    "paymaster_jobs_finished", "Jobs that this worker finished, by how they ended.", ("kind", "queue", "state")
)
RUNS = Counter("paymaster_runs", "Runs of jobs, by how they ended.", ("kind", "outcome"))
ATTEMPTS = Counter(
    "paymaster_attempts", "Attempts that have ended, by outcome.", ("model", "kind", "outcome", "error_code")
)
COST = Counter(
    "paymaster_cost_nanousd", "What ended attempts were charged, in nano-USD (USD x 10^9).", ("model", "kind", "basis")
)
TOKENS = Counter("paymaster_tokens", "Tokens that providers counted.", ("model", "direction"))
PROVIDER_SECONDS = Histogram(
    "paymaster_provider_seconds",
    "From sending a request to the end of its answer or error.",
    ("model", "kind"),
    buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60, 120),
)
OVERHEAD_SECONDS = Histogram(
    "paymaster_overhead_seconds",
    "What a run of a job took beside its provider calls.",
    ("kind",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


def known_code(code: str | None) -> str:
    """An error code as a label: ours, the providers' and the statuses of HTTP. Whatever else they invent is `other`."""
    if code is None:
        return ""
    return code if code in BY_CODE or code in PROVIDERS_CODES or re.fullmatch(r"http_\d{3}", code) else "other"


def count_abandoned(attempts: Iterable[Attempt]) -> None:
    """Attempts whose runner was lost: they are charged at their reservations."""
    for attempt in attempts:
        ATTEMPTS.labels(attempt.model_name, attempt.task_type, "unknown", RUNNER_LOST).inc()
        COST.labels(attempt.model_name, attempt.task_type, "reservation").inc(attempt.cost_nano)


def serve() -> None:
    """Serve this process' figures, if METRICS_PORT says so; `SettingsError` if the port cannot be had."""
    settings = read_settings(WatchSettings)
    if settings.metrics_port == 0:
        return
    try:
        start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise SettingsError(f"METRICS_PORT: {where} cannot be listened on: {error.strerror}") from None
