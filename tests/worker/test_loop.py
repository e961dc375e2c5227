"""What a job on the event loop waits for holds up nobody else there, and whoever gives up a call meets nothing but the
call."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar

import pytest
from celery import _state
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.util.concurrency import greenlet_spawn

from db.loop import event_loop, wait_for
from db.models import Job
from db.writer import group_writer
from tests.on_loop import all_on_loop, on_loop
from worker.app import app
from worker.loop import blocking, cancel_all, run_on_loop, wait_until
from worker.renewed import Renewed

shared: ContextVar[str] = ContextVar("shared")


def test_what_blocks_does_so_in_a_thread_that_knows_the_task_and_the_context() -> None:
    task = app.tasks["celery.chain"]

    @blocking
    def look() -> tuple[str, str, str]:
        found = _state.get_current_worker_task()
        return threading.current_thread().name, found.request.id, shared.get()

    def work() -> tuple[str, str, str]:
        shared.set("seen")
        _state._task_stack.push(task)
        task.push_request(id="a-message", called_directly=False)
        try:
            return look()
        finally:
            task.pop_request()
            _state._task_stack.pop()

    where, request_id, told = on_loop(work)
    assert where.startswith("blocking")
    assert (request_id, told) == ("a-message", "seen")
    # and the thread has forgotten it
    assert on_loop(blocking(_state.get_current_worker_task)) is None


def test_elsewhere_what_blocks_is_done_right_here() -> None:
    assert blocking(threading.current_thread)() is threading.current_thread()


def test_an_error_of_what_blocks_is_the_jobs() -> None:
    @blocking
    def fail() -> None:
        raise OperationalError("select", {}, Exception("gone"))

    with pytest.raises(OperationalError):
        on_loop(fail)


def test_an_error_that_asyncio_does_not_carry_is_the_jobs_all_the_same() -> None:
    def fail() -> None:
        raise StopIteration

    def job() -> str:
        with pytest.raises(StopIteration):
            blocking(fail)()
        return "went on"

    assert on_loop(job) == "went on"


def test_whoever_no_longer_waits_leaves_alone_what_is_waited_for() -> None:
    result: Future[int] = Future()

    async def give_up() -> None:
        waiting = asyncio.create_task(greenlet_spawn(wait_for, result))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run_coroutine_threadsafe(give_up(), event_loop()).result(60)
    # else this would end the thread that commits for all
    result.set_result(7)


def test_a_job_that_waits_holds_up_no_other() -> None:
    both = threading.Barrier(2, timeout=60)
    # on one thread the first would wait for ever for the second
    all_on_loop(blocking(both.wait), blocking(both.wait))


def test_a_result_of_another_thread_is_waited_for_without_holding_up_the_loop() -> None:
    result: Future[int] = Future()
    assert all_on_loop(lambda: wait_for(result), lambda: result.set_result(7)) == [7, None]


def test_a_call_that_is_given_up_ends_and_its_job_goes_on() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    def job() -> str:
        with pytest.raises(CancelledError):
            run_on_loop(never())
        # such as to write down what the call costs
        return run_on_loop(asyncio.sleep(0, "went on"))

    def give_up() -> int:
        return cancel_all()

    assert all_on_loop(job, give_up) == ["went on", 1]


def test_a_call_that_ends_as_it_is_given_up_spares_the_write_that_follows(environment: None) -> None:
    async def ends() -> int:
        # it finds this call under way; what it tells the loop arrives when the call has ended
        return cancel_all()

    def job() -> tuple[int, list[Job]]:
        cancelled = run_on_loop(ends())
        return cancelled, group_writer().commit(lambda session: list(session.scalars(select(Job))))

    assert on_loop(job) == (1, [])


@pytest.mark.parametrize("comes", [True, False])
def test_an_event_is_waited_for(comes: bool) -> None:
    event = threading.Event()
    waited, _ = all_on_loop(lambda: wait_until(event, 0.05), event.set if comes else lambda: None)
    assert waited is comes
    assert wait_until(event, 0.01) is comes


def test_a_value_is_read_anew_by_one_job_while_the_others_on_the_loop_wait() -> None:
    reads = []
    everybody_is_here = threading.Event()

    def read() -> str:
        reads.append(threading.current_thread().name)
        assert everybody_is_here.wait(60)
        return "new"

    value = Renewed("a value", read, "old", 60)
    assert all_on_loop(value, value, value, everybody_is_here.set) == ["new", "new", "new", None]
    assert len(reads) == 1
    assert reads[0].startswith("blocking")
    assert value() == "new"
