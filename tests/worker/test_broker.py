"""What the broker's connection may do to a worker."""

from types import SimpleNamespace

from kombu.transport.redis import Channel

import worker.app  # noqa: F401  # it mends kombu


def test_an_acknowledgement_that_comes_after_its_connection_was_closed_ends_nobody() -> None:
    closed = Channel.__new__(Channel)
    closed.connection = None
    closed.basic_ack("tag")


def test_one_over_an_open_connection_is_sent() -> None:
    told: list[str] = []
    channel = Channel.__new__(Channel)
    channel.connection = SimpleNamespace()
    channel._qos = SimpleNamespace(ack=told.append)
    channel.basic_ack("tag")
    assert told == ["tag"]
