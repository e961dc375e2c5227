"""What we do otherwise than kombu on Redis: what loses a worker there, and what takes a fifth of a job's CPU because it
tells the broker one by one what could be told together."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from kombu.utils.json import dumps

from worker.queues import OF_KINDS

# how long what it is told waits for company
TOGETHER_S = 0.1


class SharedQoS(redis.QoS):
    """What is to be delivered again if the worker dies. kombu tells the broker of each message when it is taken, and
    again when it is acknowledged; here that waits for company. If an acknowledgement is lost with its worker, the
    message comes twice, which does no harm. If it is the record of a message that holds nothing but a job's id, the
    sweeper finds the job, as it does when a message is lost otherwise; most are acknowledged or claimed before."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._taken: dict[str, Any] = {}
        self._acknowledged: list[str] = []
        self._is_due = False

    def append(self, message: Any, delivery_tag: str) -> None:
        if get_event_loop() is None or not _is_a_jobs_id(message):
            super().append(message, delivery_tag)
            return
        self._taken[delivery_tag] = message
        self._send_soon()
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if get_event_loop() is None:
            super().ack(delivery_tag)
            return
        if self._taken.pop(delivery_tag, None) is None:
            self._acknowledged.append(delivery_tag)
            self._send_soon()
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if delivery_tag in self._taken:
            # it is given back from the broker's record
            self.send()
        super().reject(delivery_tag, requeue=requeue)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """What kombu asks for its commands: the pipeline begins with what has been waiting."""
        if pipe is not None:
            yield pipe
            return
        channel: Any = self.channel
        with channel.conn_or_acquire(client) as connected:
            pipe = connected.pipeline(transaction=False)
            # in this order: what is acknowledged meanwhile is taken out after it was put in
            taken, self._taken = self._taken, {}
            tags, self._acknowledged = self._acknowledged, []
            for tag, message in taken.items():
                where = message.delivery_info
                pipe.zadd(self.unacked_index_key, {tag: time.time()})
                pipe.hset(self.unacked_key, tag, dumps([message._raw, where["exchange"], where["routing_key"]]))
            if tags:
                # in this order: what is found by the index alone is tidied up, the other way it would stay for ever
                pipe.hdel(self.unacked_key, *tags).zrem(self.unacked_index_key, *tags)
            yield pipe

    def _send_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            loop: Any = get_event_loop()
            loop.call_later(TOGETHER_S, self.send)

    def send(self) -> None:
        """Say now what has been waiting."""
        self._is_due = False
        if (self._taken or self._acknowledged) and self.channel.connection is not None:
            with self.pipe_or_acquire() as pipe:
                pipe.execute()


# the body of a message that holds nothing, and that nothing hangs on: no chain, no callback
NOTHING = b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
JOBS = {f"tasks.{kind}" for kind in OF_KINDS}


def _is_a_jobs_id(message: Any) -> bool:
    body = message.body.encode() if isinstance(message.body, str) else message.body
    return message.headers.get("task") in JOBS and body == NOTHING


def _only_if_open(method: Callable[..., None]) -> Any:
    """After an outage of the broker, jobs that end acknowledge or reject what came over the connection before it. kombu
    has no answer to that but an AttributeError, which ends the worker. The broker has forgotten the message, or
    delivers it again, which does no harm."""

    def guarded(self: redis.Channel, *arguments: Any, **options: Any) -> None:
        if self.connection is not None:
            method(self, *arguments, **options)

    return guarded


_create_client = redis.Channel._create_client  # type: ignore[attr-defined]  # it is not in the stubs


def _one_client(self: redis.Channel, asynchronous: bool = False) -> Any:
    """kombu makes a client of redis-py for every command, which takes longer than the command: a tenth of the CPU of a
    job. One does for a connection pool, and is safe among threads."""
    if asynchronous:
        return _create_client(self, asynchronous=True)
    held = self.__dict__.get("_one_client")
    if held is None or held.connection_pool is not self.pool:
        held = self.__dict__["_one_client"] = _create_client(self)
    return held


def mend_kombu() -> None:
    """Let kombu's Redis channels do so, in this process."""
    channel: Any = redis.Channel
    # At shutdown kombu would give unacknowledged messages back on a connection that may be gone, and take the worker
    # down with it. Jobs live in SQL, so nothing hangs on that.
    channel.do_restore = False
    channel.QoS = SharedQoS
    channel._create_client = _one_client
    channel.basic_ack = _only_if_open(channel.basic_ack)
    channel.basic_reject = _only_if_open(channel.basic_reject)
