"""What Prometheus scrapes: the figures that workers keep (worker/metrics.py), and how jobs, queues, budgets, breakers
and alerts stand at this moment. docs/observability.md lists all of it."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import redis
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from budget.breaker import BreakerState, breakers
from budget.connection import SOCKET_TIMEOUT_S
from budget.ledger import ledger
from db import standing
from db.models import utc_now
from db.once import once_per_environment
from db.rounds import all_rounds
from db.session import read
from selection.registry import load_registry
from worker.app import app
from worker.metrics import FOLDER

# several scrapers, or one that insists, cost no more than one
CACHED_FOR_S = 2.0
CONTENT_TYPE = CONTENT_TYPE_LATEST

logger = logging.getLogger(__name__)


class Standing(Collector):
    """How things stand. Each part is asked by itself: where one is away, its figures are missing, and `paymaster_up`
    says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: list[Metric] = []
        self._until = float("-inf")

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._known = list(_ask_all())
                self._until = time.monotonic() + CACHED_FOR_S
            return self._known


def render() -> bytes:
    """All figures in Prometheus' text format, whose content type is `CONTENT_TYPE`."""
    registry = CollectorRegistry()
    registry.register(_standing())
    if os.environ.get(FOLDER):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


@once_per_environment
def _standing() -> Standing:
    return Standing()


def _ask_all() -> Iterator[Metric]:
    up = _gauge("paymaster_up", "Whether a part gave an answer.", "part")
    parts: dict[str, Callable[[], list[Metric]]] = {"database": _jobs, "ledger": _money, "broker": _queues}
    for part, ask in parts.items():
        try:
            yield from ask()
            up.add_metric([part], 1)
        except Exception as error:
            logger.warning("metrics: %s cannot be asked: %s", part, type(error).__name__)
            up.add_metric([part], 0)
    yield up


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _jobs() -> list[Metric]:
    jobs = _gauge("paymaster_jobs", "Jobs that are not over.", "kind", "queue", "state")
    oldest = _gauge("paymaster_oldest_waiting_seconds", "How long the oldest job that waits has waited.", "queue")
    alerts = _gauge("paymaster_alerts_open", "Alerts that have not cleared.", "kind")
    rounds = _gauge("paymaster_round_timestamp_seconds", "When a round of maintenance last began.", "round")
    waiting: dict[str, float] = dict.fromkeys(_queue_names(), 0.0)
    with read() as session:
        now = utc_now()
        for row in standing.live_jobs(session):
            jobs.add_metric([row.kind, row.queue, row.state], row.number)
            if row.state in standing.IN_QUEUES:
                waiting[row.queue] = max(waiting.get(row.queue, 0.0), (now - row.oldest).total_seconds())
        for kind, number in standing.open_alerts(session):
            alerts.add_metric([kind], number)
        for name, begun_at in all_rounds(session):
            rounds.add_metric([name], begun_at.timestamp())
    for queue, seconds in waiting.items():
        oldest.add_metric([queue], seconds)
    return [jobs, oldest, alerts, rounds]


def _money() -> list[Metric]:
    families = {
        name: _gauge(f"paymaster_budget_{name}_nanousd", f"{text}, in nano-USD (USD x 10^9).", "scope")
        for name, text in (
            ("spent", "What was charged in the current period"),
            ("reserved", "What is held for calls under way"),
            ("limit", "The limit; none if there is none"),
        )
    }
    for use in ledger().usage():
        for name, family in families.items():
            if (nano := getattr(use, name)) is not None:
                family.add_metric([use.name], nano)
    held, swept = ledger().signs_of_life()
    reservations = _gauge("paymaster_reservations_open", "Reservations whose call has not ended.")
    reservations.add_metric([], held)
    sweep = _gauge("paymaster_last_sweep_timestamp_seconds", "When the sweeper, which beat sends, was last here.")
    if swept is not None:
        sweep.add_metric([], swept)
    return [*families.values(), reservations, sweep, _breakers()]


def _breakers() -> Metric:
    family = _gauge("paymaster_breaker", "1 for the state that a model's breaker is in.", "model", "state")
    for breaker in breakers(ledger().client, list(load_registry().models)):
        for state in BreakerState:
            family.add_metric([breaker.model, state], breaker.state is state)
    return family


def _queue_names() -> list[str]:
    return list(app.amqp.queues)


def _queues() -> list[Metric]:
    """Only of Redis, which answers at once; other brokers have exporters of their own."""
    messages = _gauge("paymaster_queue_messages", "Messages that wait in the broker.", "queue")
    url = app.conf.broker_read_url or app.conf.broker_url
    if not str(url).startswith(("redis://", "rediss://")):
        return [messages]
    limits = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    with redis.Redis.from_url(url, **limits) as client, client.pipeline(transaction=False) as pipe:
        for queue in _queue_names():
            pipe.llen(queue)
        for queue, length in zip(_queue_names(), pipe.execute(), strict=True):
            messages.add_metric([queue], length)
    return [messages]
