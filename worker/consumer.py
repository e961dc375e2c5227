"""Celery's consumer, with events that travel together and acknowledgements that are not forgotten at the end."""

import sys
from contextlib import suppress
from typing import Any

from celery.worker import consumer
from vine import promise

from worker.broker import TOGETHER_S, SharedQoS

CeleryConsumer: Any = consumer.Consumer


class Consumer(CeleryConsumer):  # type: ignore[misc]  # celery-types knows little of it
    """Celery's consumer, which sends the events of a tenth of a second together."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._flush_soon = promise(self._flush_later)
        self._flush_is_due = False

    def on_send_event_buffered(self) -> None:
        # Whatever thread this is: only the consumer's may send. Celery lets any thread send when there are many, and on
        # RabbitMQ that thread and the consumer's would wait for each other's replies.
        if self.event_dispatcher:
            self.event_dispatcher.buffer_limit = sys.maxsize
        self.hub.call_soon(self._flush_soon)

    def _flush_later(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.hub.call_later(TOGETHER_S, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self._flush_events()

    def shutdown(self) -> None:
        """Say what has been waiting before the connections go."""
        # nothing hangs on it, and each broker has errors of its own
        with suppress(Exception):
            self._flush_events()
            # RabbitMQ's channels have none
            qos = getattr(self.task_consumer.channel, "qos", None) if self.task_consumer else None
            if isinstance(qos, SharedQoS):
                qos.send()
        super().shutdown()
