"""What the broker's connection may do to a worker."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.transport.redis import Channel
from redis import ConnectionPool, Redis

import worker.app  # it mends kombu
from worker.broker import TOGETHER_S
from worker.consumer import Consumer

QUEUE = Queue("letters", Exchange("letters"), "letters")


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The loop of a worker, whose timers the test fires."""
    before, hub = get_event_loop(), Hub()
    set_event_loop(hub)
    yield hub
    set_event_loop(before)


@pytest.fixture
def letters(redis_server: str) -> Iterator[Any]:
    """A channel with three messages, and no worker."""
    with Connection(redis_server) as connection:
        channel: Any = connection.default_channel
        for number in range(3):
            connection.Producer(channel).publish(
                number, exchange=QUEUE.exchange, routing_key="letters", declare=[QUEUE]
            )
        yield channel
    with Redis.from_url(redis_server) as client:
        client.delete("letters", channel.unacked_key, channel.unacked_index_key)


def held(channel: Any) -> int:
    """How many messages the broker would deliver again."""
    with channel.conn_or_acquire() as client:
        assert client.hlen(channel.unacked_key) == client.zcard(channel.unacked_index_key)
        return int(client.hlen(channel.unacked_key))


def fire(hub: Hub) -> None:
    """What is due by now and in a moment."""
    due = [*hub.timer.queue]
    hub.timer.clear()
    for entry in due:
        entry.entry()


@pytest.mark.parametrize("says", [Channel.basic_ack, Channel.basic_reject])
def test_what_is_said_of_a_message_after_its_connection_was_closed_ends_nobody(says: Callable[..., None]) -> None:
    closed = Channel.__new__(Channel)
    closed.connection = None
    says(closed, "tag")


def test_over_an_open_connection_it_is_sent() -> None:
    told: list[Any] = []
    channel = Channel.__new__(Channel)
    channel.connection = SimpleNamespace()
    channel._qos = SimpleNamespace(ack=told.append, reject=lambda tag, requeue: told.append((tag, requeue)))
    channel.basic_ack("tag")
    channel.basic_reject("other", requeue=True)
    assert told == ["tag", ("other", True)]


def test_commands_of_one_pool_share_their_client() -> None:
    channel = Channel.__new__(Channel)
    channel._async_pool = None
    channel.Client = Redis
    channel._pool = ConnectionPool()
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
        assert one is other
        assert one.connection_pool is channel._pool
    channel._pool = ConnectionPool()
    with channel.conn_or_acquire() as after_an_outage:
        assert after_an_outage.connection_pool is channel._pool


def test_an_acknowledgement_goes_with_the_next_message(letters: Any, hub: Hub) -> None:
    first, second = letters.basic_get("letters"), letters.basic_get("letters")
    assert held(letters) == 2
    first.ack()
    second.ack()
    assert held(letters) == 2
    letters.basic_get("letters")
    assert held(letters) == 1
    fire(hub)
    assert held(letters) == 1


def test_an_acknowledgement_waits_for_the_next_message_for_a_moment_only(letters: Any, hub: Hub) -> None:
    for message in (letters.basic_get("letters"), letters.basic_get("letters")):
        message.ack()
    assert [round(entry.eta - hub.timer.queue[0].eta, 1) for entry in hub.timer.queue] == [0]
    fire(hub)
    assert held(letters) == 0
    letters.basic_get("letters").ack()
    fire(hub)
    assert held(letters) == 0


@pytest.fixture
def jobs(redis_server: str, letters: Any) -> Any:
    """The same channel with three messages of jobs: their ids, and nothing else."""
    for number in range(3):
        publish(letters, "tasks.parse", task_id=f"job-{number}")
    for _ in range(3):
        letters.basic_get("letters").ack()
    with letters.conn_or_acquire() as client:
        client.delete(letters.unacked_key, letters.unacked_index_key)
    return letters


def publish(channel: Any, task: str, **message: Any) -> None:
    told = worker.app.app.amqp.as_task_v2(message.pop("task_id"), task, **message)
    Producer(channel, serializer="json").publish(
        told.body, exchange=QUEUE.exchange, routing_key="letters", headers=told.headers, **told.properties
    )


def test_a_job_that_is_done_in_a_moment_is_never_told_of(jobs: Any, hub: Hub) -> None:
    jobs.basic_get("letters").ack()
    fire(hub)
    assert held(jobs) == 0


def test_messages_of_jobs_are_recorded_together_and_come_again_as_they_were(jobs: Any, hub: Hub) -> None:
    taken = [jobs.basic_get("letters") for _ in range(3)]
    assert held(jobs) == 0
    fire(hub)
    assert held(jobs) == 3
    taken[0].ack()
    fire(hub)
    assert held(jobs) == 2
    jobs.qos.restore_unacked()
    again = [jobs.basic_get("letters") for _ in range(2)]
    assert {m.headers["id"] for m in again} == {"job-1", "job-2"}
    assert {(m.body, m.headers["task"]) for m in again} == {(m.body, m.headers["task"]) for m in taken}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("tasks.parse", {"kwargs": {"job_description": "in the message only"}}),
        ("tasks.parse", {"chain": [{"task": "tasks.embed"}]}),
        ("tasks.parse", {"callbacks": [{"task": "tasks.embed"}]}),
        ("tasks.parse", {"chord": {"task": "tasks.embed"}}),
        ("somebody.else", {}),
    ],
)
def test_a_message_on_which_more_hangs_is_recorded_at_once(
    jobs: Any, hub: Hub, task: str, message: dict[str, Any]
) -> None:
    for _ in range(3):
        jobs.basic_get("letters").ack()
    publish(jobs, task, task_id="more", **message)
    taken = jobs.basic_get("letters")
    assert held(jobs) == 1
    taken.ack()
    fire(hub)
    assert held(jobs) == 0


def test_a_job_that_is_given_back_at_once_comes_again(jobs: Any, hub: Hub) -> None:
    first = jobs.basic_get("letters")
    first.requeue()
    assert held(jobs) == 0
    assert first.headers["id"] in {jobs.basic_get("letters").headers["id"] for _ in range(3)}


def test_what_is_acknowledged_makes_room_at_once(letters: Any, hub: Hub) -> None:
    letters.basic_qos(0, 1, False)
    message = letters.basic_get("letters")
    assert not letters.qos.can_consume()
    message.ack()
    assert letters.qos.can_consume()


def test_a_rejected_message_is_forgotten_and_one_that_is_given_back_comes_again(letters: Any, hub: Hub) -> None:
    one, other = letters.basic_get("letters"), letters.basic_get("letters")
    one.reject()
    other.requeue()
    assert held(letters) == 0
    assert {letters.basic_get("letters").payload, letters.basic_get("letters").payload} == {other.payload, 2}


def test_a_worker_that_shuts_down_says_what_it_has_not_said(letters: Any, hub: Hub) -> None:
    letters.basic_get("letters").ack()
    consumer = Told(hub)
    consumer.task_consumer = SimpleNamespace(channel=letters)
    consumer.blueprint = SimpleNamespace(shutdown=lambda _: None)
    consumer.shutdown()
    assert held(letters) == 0
    assert consumer.flushes == 1


@pytest.mark.parametrize("task_consumer", [None, SimpleNamespace(channel=SimpleNamespace())])
def test_one_that_never_consumed_or_does_so_from_rabbitmq_shuts_down_too(hub: Hub, task_consumer: Any) -> None:
    ended: list[Any] = []
    consumer = Told(hub)
    consumer.task_consumer = task_consumer
    consumer.blueprint = SimpleNamespace(shutdown=ended.append)
    consumer.shutdown()
    assert (consumer.flushes, ended) == (1, [consumer])


def test_a_channel_that_is_closed_opens_no_new_connection(redis_server: str, letters: Any, hub: Hub) -> None:
    """It may be closed because its Redis hangs. What was not said comes twice."""
    letters.basic_get("letters").ack()
    letters.close()
    fire(hub)
    assert letters._pool is None


def test_without_a_loop_it_is_said_at_once(letters: Any) -> None:
    assert get_event_loop() is None
    letters.basic_get("letters").ack()
    assert held(letters) == 0


class Told(Consumer):
    """A consumer whose flushes are counted."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.flushes, self._flush_is_due = hub, 0, False
        self.event_dispatcher = SimpleNamespace(buffer_limit=24)

    def _flush_events(self) -> None:
        self.flushes += 1


def test_events_of_a_moment_go_together(hub: Hub) -> None:
    consumer = Told(hub)
    consumer._flush_soon = consumer._flush_later
    for _ in range(5):
        consumer.on_send_event_buffered()
    for item in hub._pop_ready():
        item()
    assert consumer.flushes == 0 and len(hub.timer.queue) == 1
    # else any thread would send when there are many
    assert consumer.event_dispatcher.buffer_limit > 10**6
    fire(hub)
    assert consumer.flushes == 1
    consumer._flush_later()
    assert len(hub.timer.queue) == 1


def test_events_wait_for_a_connection_too(hub: Hub) -> None:
    consumer = Told(hub)
    consumer._flush_soon = consumer._flush_later
    consumer.event_dispatcher = None
    consumer.on_send_event_buffered()
    for item in hub._pop_ready():
        item()
    fire(hub)
    assert consumer.flushes == 1


def test_a_moment_is_short() -> None:
    assert TOGETHER_S <= 0.2
