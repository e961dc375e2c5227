"""The results that jobs on the event loop leave in Redis for whoever waits."""

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import worker.results
from tests.on_loop import all_on_loop, on_loop
from worker.app import app
from worker.results import JobBackend


@pytest.fixture
def server(environment: None, redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server) as client:
        yield client


@pytest.fixture
def backend(server: redis.Redis, redis_server: str) -> Iterator[Any]:
    made = JobBackend(app=app, url=redis_server)
    yield made
    made.result_consumer.stop()
    made.client.connection_pool.disconnect()
    if made._pipe is not None:
        made._pipe.close()


def store(backend: Any, task_id: str, result: Any = "done") -> None:
    backend.mark_as_done(task_id, result)


def test_results_of_one_moment_travel_together_and_each_is_its_own(backend: Any, server: redis.Redis) -> None:
    on_loop(lambda: store(backend, "connect"))
    before: Any = server.info("stats")["total_reads_processed"]
    all_on_loop(*(lambda number=number: store(backend, f"job-{number}", {"n": number}) for number in range(50)))
    after: Any = server.info("stats")["total_reads_processed"]
    assert after - before < 10
    for number in range(50):
        meta = backend.get_task_meta(f"job-{number}")
        assert (meta["status"], meta["result"]) == ("SUCCESS", {"n": number})
        assert 3500 < server.ttl(backend.get_key_for_task(f"job-{number}")) <= 3600


def test_whoever_waits_is_told(backend: Any, server: redis.Redis) -> None:
    key = backend.get_key_for_task("waited-for")
    with server.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(key)
        told.get_message(timeout=10)
        on_loop(lambda: store(backend, "waited-for", 7))
        deadline = time.monotonic() + 60
        while (message := told.get_message(timeout=1)) is None and time.monotonic() < deadline:
            pass
    assert message is not None
    assert json.loads(message["data"])["result"] == 7


def test_results_that_are_kept_for_ever_have_no_end(backend: Any, server: redis.Redis) -> None:
    backend.expires = None
    on_loop(lambda: store(backend, "for-ever"))
    assert server.ttl(backend.get_key_for_task("for-ever")) == -1


@pytest.mark.parametrize("size", [10, worker.results.LARGEST_TOGETHER + 1])
def test_a_result_that_does_not_get_through_goes_celerys_own_way(
    backend: Any, server: redis.Redis, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    threads = []

    def watched(key: str, value: Any, state: str) -> None:
        threads.append(threading.current_thread().name)
        JobBackend._set_with_state(backend, key, value, state)

    # only what the loop sends itself goes there; Celery's client is connected to the server
    monkeypatch.setattr(backend, "url", gone)
    monkeypatch.setattr(backend, "_set_with_state", watched)
    task_id = uuid.uuid4().hex
    on_loop(lambda: store(backend, task_id, "x" * size))
    assert backend.get_task_meta(task_id)["result"] == "x" * size
    # and nobody on the loop waits for it
    assert [name.startswith("blocking") for name in threads] == [True]


def test_a_url_that_only_celery_understands_is_celerys(
    backend: Any, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its client is connected to the server
    monkeypatch.setattr(backend, "url", "rediss://127.0.0.1:1/0?ssl_cert_reqs=CERT_REQUIRED")
    on_loop(lambda: store(backend, "encrypted"))
    assert backend.get_task_meta("encrypted")["result"] == "done"


def test_other_states_are_told_from_a_thread(backend: Any, server: redis.Redis) -> None:
    threads = []
    set_state = backend._set_with_state
    backend._set_with_state = lambda *words: (threads.append(threading.current_thread().name), set_state(*words))
    on_loop(lambda: backend.store_result("under-way", {"done": 1, "total": 2}, "PROGRESS"))
    assert backend.get_task_meta("under-way")["status"] == "PROGRESS"
    assert [name.startswith("blocking") for name in threads] == [True]
