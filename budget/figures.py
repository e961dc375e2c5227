"""What the ledger should hold, by SQL: the counters of the periods that are not over, and the reservations whose
outcome may still change them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from budget.periods import Periods
from budget.scopes import day_key, job_key, keys_of, month_key, user_day_key
from db.models import Attempt, AttemptState, CostBasis, Job, JobState

# embed jobs may be of any size: see `JobKind.capped`
UNCAPPED_KIND = "embed"


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation as Redis should hold it, amounts in nano-USD: open, or expired and charged."""

    amount: int
    state: str
    charged: int
    scope_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Counters by key (spent, reserved) in nano-USD, and reservations by attempt id."""

    counters: dict[str, tuple[int, int]]
    reservations: dict[str, Held]


_RESERVED = case((Attempt.state == AttemptState.CALLING, Attempt.reserved_nano), else_=0)
_SUMS = (func.sum(Attempt.cost_nano), func.sum(_RESERVED))
_LIVE_AND_CAPPED = Job.state.not_in([state for state in JobState if state.final]) & (Job.kind != UNCAPPED_KIND)


def figures(session: Session, now: Periods) -> Figures:
    """The figures of a snapshot. Periods before `now` are left out: nothing is admitted to them any more."""
    this_month = Attempt.budget_month >= now.month
    today = this_month & (Attempt.budget_day >= now.day)
    month, day, user, job = Attempt.budget_month, Attempt.budget_day, Attempt.user_id, Attempt.job_id
    counters: dict[str, tuple[int, int]] = {}
    scopes: list[tuple[Callable[..., str], tuple[Any, ...], Any]] = [
        (month_key, (month,), this_month),
        (day_key, (day,), today),
        (user_day_key, (user, day), today & user.is_not(None)),
        (job_key, (job,), _LIVE_AND_CAPPED),
    ]
    for key, columns, which in scopes:
        for *names, spent, reserved in session.execute(
            select(*columns, *_SUMS).join(Job).where(which).group_by(*columns)
        ):
            # PostgreSQL adds up big integers as Decimal
            counters[key(*names)] = int(spent), int(reserved)
    return Figures(counters, _reservations(session, now))


def _reservations(session: Session, now: Periods) -> dict[str, Held]:
    """Calls that are under way, and calls that were charged at their reservations: their outcome may come yet."""
    under_way = (Attempt.state == AttemptState.CALLING) & (Attempt.budget_month >= _month_before(now.month))
    unknown = (Attempt.cost_basis == CostBasis.RESERVATION) & (Attempt.budget_month >= now.month)
    rows = session.execute(select(Attempt, Job.kind).join(Job).where(under_way | unknown))
    return {
        attempt.id: Held(
            amount=attempt.reserved_nano,
            state="open" if attempt.state == AttemptState.CALLING else "expired",
            charged=attempt.cost_nano,
            scope_keys=scope_keys_of(attempt, kind),
        )
        for attempt, kind in rows
    }


def _month_before(month: str) -> str:
    return f"{date.fromisoformat(f'{month}-01') - timedelta(days=1):%Y-%m}"


def scope_keys_of(attempt: Attempt, kind: str) -> tuple[str, ...]:
    """The counters that pay for an attempt of a job of that kind."""
    job_id = None if kind == UNCAPPED_KIND else attempt.job_id
    return keys_of(attempt.budget_day, attempt.budget_month, attempt.user_id, job_id)
