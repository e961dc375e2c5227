"""Controls: one fault of the product's own for each scenario, which its checks must find. Each is a patch of a worker
process; a check that no mutant fails proves nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import update

from budget import rebuild
from budget.figures import Figures
from budget.ledger import Reservation
from budget.money import Usage
from db.models import CostBasis, Job, JobState
from worker import attempt, closing, gateway, one_run, run, shutdown, spool, sweeper
from worker.closing import LostJob


def forgets_calls_of_the_dead() -> None:
    """A call that its worker did not live to see ended costs nothing."""
    close_abandoned = run.jobs.close_abandoned

    def forget(session: Any, job_id: str) -> Any:
        closed = close_abandoned(session, job_id)
        for one in closed:
            one.cost_nano, one.cost_basis = 0, CostBasis.NOT_BILLED
        return closed

    run.jobs.close_abandoned = forget


def calls_before_it_records() -> None:
    """The attempt is written down only when its call has ended."""
    record, close = attempt._record, attempt.close
    waiting: dict[str, Any] = {}

    def later(plan: Any, reservation: Reservation, reserved_at: float) -> None:
        waiting[reservation.attempt_id] = (plan, reservation, time.monotonic())

    def close_recorded(plan: Any, reservation: Reservation, *args: Any, **kwargs: Any) -> None:
        record(*waiting.pop(reservation.attempt_id))
        close(plan, reservation, *args, **kwargs)

    attempt._record, attempt.close = later, close_recorded


def never_looks_for_lost_messages() -> None:
    """Nobody publishes a job again whose message was lost."""
    sweeper._overdue_in_empty_queues = lambda app: []


def leaves_reservations_open() -> None:
    """Nobody asks what became of a reservation whose attempt is not heard of again."""
    sweeper._end_overdue = lambda: 0


def takes_whatever_is_delivered() -> None:
    """A job that is delivered again is run again, whoever runs it."""
    claim = run.jobs.claim

    def take(session: Any, job_id: str, runner: str) -> Any:
        free = update(Job).where(Job.id == job_id, Job.state == JobState.RUNNING)
        session.execute(free.values(runner=None, lease_until=None))
        return claim(session, job_id, runner)

    run.jobs.claim = take


def believes_an_empty_ledger() -> None:
    """Redis is empty, so nothing was spent."""
    rebuild.figures = lambda session, now: Figures({}, {})


def drops_outcomes_while_sql_is_away() -> None:
    """An outcome that SQL does not take is dropped."""

    def drop(outcome: Any, kind: Any) -> bool:
        try:
            return bool(closing.group_writer().commit(lambda session: outcome.write(session, kind)))
        except spool.OUTAGES:
            return True

    closing._write_down = drop


def never_falls_back() -> None:
    """The first model is the only one."""
    left = one_run.Run._models_left
    one_run.Run._models_left = lambda self: left(self)[:1]
    one_run.TRIES_PER_MODEL = 99


def stops_at_once() -> None:
    """SIGTERM breaks off what is under way."""
    begin = shutdown.begin
    shutdown.begin = lambda within_s: begin(0)


def needs_its_spool() -> None:
    """An outcome that the disk does not take either is dropped."""
    keep = spool.keep

    @contextmanager
    def keep_or_drop(outcome: Any) -> Iterator[None]:
        try:
            with keep(outcome):
                yield
        except OSError:
            raise LostJob(outcome.job_id) from None

    spool.keep = keep_or_drop


def believes_any_usage() -> None:
    """What the provider says of tokens is taken as it is."""
    gateway._usage = lambda reported: Usage(
        getattr(reported, "prompt_tokens", 0) or 0, max(1, getattr(reported, "completion_tokens", 0) or 0)
    )


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        forgets_calls_of_the_dead,
        calls_before_it_records,
        never_looks_for_lost_messages,
        leaves_reservations_open,
        takes_whatever_is_delivered,
        believes_an_empty_ledger,
        drops_outcomes_while_sql_is_away,
        never_falls_back,
        stops_at_once,
        needs_its_spool,
        believes_any_usage,
    )
}
