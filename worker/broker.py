"""What we do otherwise than kombu on Redis: what loses a worker there, and what takes a fifth of a job's CPU because it
tells the broker one by one what could be told together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual

# how long acknowledgements wait for company
TOGETHER_S = 0.1


class SharedAcks(redis.QoS):
    """Acknowledgements go with the next message that is taken, or by themselves a moment later. Of one that is lost
    with its worker the message comes twice, which does no harm."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._acknowledged: list[str] = []

    def ack(self, delivery_tag: str) -> None:
        loop = get_event_loop()
        if loop is None:
            super().ack(delivery_tag)
            return
        if not self._acknowledged:
            loop.call_later(TOGETHER_S, self.send)
        self._acknowledged.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """What kombu asks for its commands: the pipeline begins with what was acknowledged meanwhile."""
        if pipe is not None:
            yield pipe
            return
        channel: Any = self.channel
        with channel.conn_or_acquire(client) as connected:
            pipe = connected.pipeline(transaction=False)
            tags, self._acknowledged = self._acknowledged, []
            if tags:
                # in this order: what is found by the index alone is tidied up, the other way it would stay for ever
                pipe.hdel(self.unacked_key, *tags).zrem(self.unacked_index_key, *tags)
            yield pipe

    def send(self) -> None:
        """Say now what has been waiting."""
        if self._acknowledged and self.channel.connection is not None:
            with self.pipe_or_acquire() as pipe:
                pipe.execute()


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
    channel.QoS = SharedAcks
    channel._create_client = _one_client
    channel.basic_ack = _only_if_open(channel.basic_ack)
    channel.basic_reject = _only_if_open(channel.basic_reject)
