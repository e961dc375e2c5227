"""Delays that RabbitMQ can keep: whole seconds, never less than one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection
from kombu.utils.uuid import uuid

from worker.app import Paymaster

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RABBIT, REDIS = "amqp://nobody@127.0.0.1:1//", "redis://127.0.0.1:1/0"


class Standing(Paymaster):
    """An app whose clock stands still."""

    def now(self) -> datetime:
        return NOW


def delay_of(broker: str, **options: Any) -> float | None:
    """After how many seconds the message says that it may run."""
    app = Standing("standing", broker=broker, backend="disabled://", set_as_current=False)
    app.conf.task_default_queue = name = uuid()
    with Connection("memory://") as connection, connection.SimpleQueue(name) as queue:
        app.send_task("x", producer=connection.Producer(), **options)
        eta = queue.get(timeout=10).headers["eta"]
    return None if eta is None else (datetime.fromisoformat(eta) - NOW).total_seconds()


def local(moment: datetime) -> datetime:
    return moment.astimezone().replace(tzinfo=None)


@pytest.mark.parametrize(
    ("options", "rabbit", "redis"),
    [
        ({}, None, None),
        ({"countdown": 0}, None, None),
        ({"countdown": 0.4}, 1, 0.4),
        ({"countdown": 1.5}, 2, 1.5),
        ({"countdown": 3}, 3, 3),
        ({"eta": NOW + timedelta(seconds=0.4)}, 1, 0.4),
        ({"eta": (NOW + timedelta(seconds=0.4)).isoformat()}, 1, None),
        ({"eta": local(NOW + timedelta(seconds=0.4))}, 1, None),
        ({"eta": NOW + timedelta(seconds=2.5)}, 2.5, 2.5),
        ({"eta": NOW - timedelta(seconds=5)}, -5, -5),
    ],
)
def test_what_is_due_within_a_second_waits_for_a_whole_one_on_rabbitmq_alone(
    options: dict[str, Any], rabbit: float | None, redis: float | None
) -> None:
    assert delay_of(RABBIT, **options) == rabbit
    if redis is not None or not options:
        assert delay_of(REDIS, **options) == redis
