"""What the broker's connection may do to a worker."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport.redis import Channel
from redis import ConnectionPool, Redis

import worker.app  # noqa: F401  # it mends kombu


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
