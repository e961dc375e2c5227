"""Celery's settings: broker, queues, routes, schedule. Every name is checked against Celery's own list."""

import os
import ssl as _ssl
from pathlib import Path

from celery.schedules import crontab as _crontab
from kombu import Exchange as _Exchange
from kombu import Queue

from worker.queues import MAINTENANCE as _MAINTENANCE
from worker.queues import OF_KINDS as _OF_KINDS
from worker.queues import QUEUES as _QUEUES


def _positive(variable: str, default: str) -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal() or int(text) == 0:
        raise SystemExit(f"paymaster: {variable}: {text!r} is no number of 1 or more")
    return int(text)


_redis = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
# kombu checks no certificate unless it is told to, and Celery's results want to be told, too
if _redis.startswith("rediss://") and "ssl_cert_reqs=" not in _redis:
    _redis += ("&" if "?" in _redis else "?") + "ssl_cert_reqs=required"

# Celery itself lets CELERY_BROKER_URL and CELERY_RESULT_BACKEND win over these two
broker_url = _redis
result_backend = f"worker.results.JobBackend+{_redis}"

_rabbit = os.environ.get("CELERY_BROKER_URL", "").startswith(("amqp:", "amqps:", "pyamqp:"))
# Queues that outlive a node of RabbitMQ. It also keeps what is to run later, which wants a topic exchange.
_exchange = _Exchange("paymaster", type="topic") if _rabbit else None
_arguments = {"x-queue-type": "quorum"} if _rabbit else None

imports = ("tasks", "tasks.maintenance")
task_queues = tuple(Queue(name, _exchange, name, queue_arguments=_arguments) for name in _QUEUES)
task_default_queue = _MAINTENANCE
# a mistyped queue fails instead of filling up unseen
task_create_missing_queues = False
# a submitter's choice of queue wins; this is for programs that only know the broker
task_routes = {f"tasks.{kind}": {"queue": queues["queue"]} for kind, queues in _OF_KINDS.items()}
task_routes |= {"maintenance.*": {"queue": _MAINTENANCE}}

accept_content = ["json"]
result_accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
# SQL keeps results; Redis carries them to whoever waits
result_expires = 3600

# jobs wait, they do not compute: most share one event loop
worker_pool = "worker.pool:TaskPool"
worker_concurrency = _positive("WORKER_CONCURRENCY", "100")
worker_consumer = "worker.consumer:Consumer"
worker_prefetch_multiplier = 1
worker_send_task_events = True
task_acks_late = True
task_reject_on_worker_lost = True
# Jobs live in SQL, so a lost or doubled message is harmless. What is redelivered after a kill is what hangs on a
# message: the next step of a chain.
# Without the other two, whoever publishes would wait for ever for a broker that hangs.
broker_transport_options = (
    # what RabbitMQ has not confirmed is not published
    {"confirm_publish": True, "connect_timeout": 5, "read_timeout": 10, "write_timeout": 10}
    if _rabbit
    else {"visibility_timeout": 300, "socket_timeout": 10, "socket_connect_timeout": 5}
)
# else nobody would look at RabbitMQ's certificate
if os.environ.get("CELERY_BROKER_URL", "").startswith("amqps:"):
    broker_use_ssl = {"cert_reqs": _ssl.CERT_REQUIRED, "server_hostname": None}
broker_connection_retry_on_startup = True
broker_pool_acquire_timeout = 10
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}

# Rounds that nobody took in time are not run late, one upon the other. Beat's clock writes when that is, and the
# worker's reads it: were it seconds, clocks that are a little apart would stop all maintenance unseen.
_A_MINUTE = {"expires": 60}

# that of `_crontab`: a zone with summer time would leave out a round on the day of 25 hours
timezone = "UTC"
beat_schedule = {
    "sweep": {"task": "maintenance.sweep", "schedule": 5.0, "options": _A_MINUTE},
    # soon after every midnight: zones are whole or half hours from UTC, but for a few
    "rollup": {"task": "maintenance.roll_up", "schedule": _crontab(minute="7,37"), "options": {"expires": 1500}},
    # Asks what is due instead of naming midnight: days of 23 and 25 hours, and a beat that was down, are no special
    # cases.
    "report": {"task": "maintenance.report", "schedule": 300.0, "options": {"expires": 240}},
    "alert": {"task": "maintenance.alert", "schedule": 15.0, "options": _A_MINUTE},
    "objectives": {"task": "maintenance.objectives", "schedule": 60.0, "options": _A_MINUTE},
    # nothing happens unless RETENTION_DAYS is set
    "prune": {"task": "maintenance.prune", "schedule": _crontab(minute="23", hour="3"), "options": {"expires": 3600}},
}
beat_schedule_filename = str(Path(os.environ.get("PAYMASTER_HOME", ".paymaster")) / "beat-schedule")
# so that a changed schedule or a short interval is never slept over
beat_max_loop_interval = 5
