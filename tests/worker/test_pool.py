"""Where Celery's tasks run: jobs that only wait share the event loop, everything else has a thread."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import group
from celery.app.trace import trace_task
from kombu.utils.uuid import uuid

from tests.on_loop import all_on_loop, on_loop
from worker.app import Paymaster, app
from worker.loop import blocking
from worker.pool import TaskPool
from worker.results import JobBackend


@contextmanager
def started(limit: int) -> Iterator[TaskPool]:
    app.loader.import_default_modules()
    pool = TaskPool(limit, app=app)
    pool.start()
    try:
        yield pool
    finally:
        pool.stop()


def send(pool: TaskPool, task: str, work: Callable[[], Any]) -> threading.Event:
    """Let the pool do this as that task; the event tells that Celery was told of its end."""
    ended = threading.Event()
    pool.apply_async(lambda _: work(), (task,), callback=lambda _: ended.set(), accept_callback=lambda *_: None)
    return ended


@pytest.mark.parametrize(
    ("task", "thread"),
    [
        ("tasks.parse", "event-loop"),
        ("tasks.generate", "event-loop"),
        # its texts and vectors are long work
        ("tasks.embed", "ThreadPoolExecutor"),
        ("maintenance.sweep", "ThreadPoolExecutor"),
        # somebody's own
        ("celery.ping", "ThreadPoolExecutor"),
    ],
)
def test_jobs_that_only_wait_run_on_the_loop(task: str, thread: str) -> None:
    seen = []
    with started(1) as pool:
        assert send(pool, task, lambda: seen.append(threading.current_thread().name)).wait(60)
    assert seen[0].startswith(thread)


def test_with_fast_locals_of_celery_jobs_have_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery.utils.threads.USE_FAST_LOCALS", "1")
    seen = []
    with started(1) as pool:
        assert send(pool, "tasks.parse", lambda: seen.append(threading.current_thread().name)).wait(60)
    assert seen[0].startswith("ThreadPoolExecutor")


def test_no_more_jobs_run_at_once_than_the_limit_says() -> None:
    go_on, running = threading.Event(), []

    @blocking
    def job() -> None:
        running.append(1)
        assert go_on.wait(60)

    with started(3) as pool:
        jobs = [send(pool, "tasks.parse", job) for _ in range(10)]
        third = threading.Event()
        while len(running) < 3:
            third.wait(0.01)
        # whatever the loop has been told by now, it has done
        on_loop(lambda: None)
        assert len(running) == 3
        assert pool.info["jobs-on-loop"] == 3
        go_on.set()
        assert all(ended.wait(60) for ended in jobs)
    assert len(running) == 10


def test_stopping_waits_for_what_runs_and_drops_what_does_not() -> None:
    begun, go_on = threading.Event(), threading.Event()

    @blocking
    def job() -> None:
        begun.set()
        assert go_on.wait(60)

    with started(1) as pool:
        runs, waits = send(pool, "tasks.parse", job), send(pool, "tasks.parse", job)
        assert begun.wait(60)
        stopping = threading.Thread(target=pool.on_stop)
        stopping.start()
        on_loop(lambda: None)
        assert stopping.is_alive()
        go_on.set()
        stopping.join(60)
        assert not stopping.is_alive()
    assert runs.is_set()
    assert not waits.is_set()


@pytest.mark.parametrize("error", [ValueError("a secret"), SystemExit(3)])
def test_an_error_of_one_job_ends_neither_the_loop_nor_the_other_jobs(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    with started(2) as pool, caplog.at_level(logging.ERROR, "worker.pool"):
        send(pool, "tasks.parse", fail)
        assert send(pool, "tasks.parse", lambda: None).wait(60)
    if isinstance(error, Exception):
        assert "unforeseen ValueError" in caplog.text.partition("\n")[0]


class Forgetful(JobBackend):
    """Ours, without a server: nobody waits for these results."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    store_result = on_task_call = add_pending_result = remove_pending_result = _nothing


@pytest.mark.parametrize("ends_well", [True, False])
def test_more_jobs_than_connections_go_on_to_groups_at_once(ends_well: bool) -> None:
    name = uuid()
    backend = f"{__name__}.Forgetful+redis://127.0.0.1:1/0"
    app = Paymaster(name, broker="memory://", backend=backend, set_as_current=False)
    app.conf.task_default_queue = name

    @app.task(name="step", typing=False)
    def step(_: Any = None) -> None:
        if not ends_well:
            raise ValueError

    def job() -> None:
        hangs_on_it = (
            {"chain": [group([step.si(), step.si()], app=app)]} if ends_well else {"errbacks": [step.s(), step.s()]}
        )
        trace_task(step, uuid(), (), {}, {"id": uuid(), "delivery_info": {}, **hangs_on_it}, app=app)

    jobs = 3 * app.conf.broker_pool_limit
    all_on_loop(*[job] * jobs)
    with app.connection() as connection, connection.SimpleQueue(name) as queue:
        assert queue.qsize() == 2 * jobs
