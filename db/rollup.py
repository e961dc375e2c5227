"""The daily rollup in SQL: attempts of one day, added up into `model_cost_tracking`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Row, Table, case, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, DailyCost

_COSTS = cast("Table", DailyCost.__table__)
_GROUP = {
    "date": Attempt.budget_day,
    "user_id": func.coalesce(Attempt.user_id, ""),
    "model_name": Attempt.model_name,
    "task_type": Attempt.task_type,
    "api": func.coalesce(Attempt.api, ""),
    "strategy": Attempt.strategy,
}
# a job has one successful attempt with part 0 at most: parts that are paid for are never called again
_FIRST_ANSWER = Attempt.success.is_(True) & (Attempt.part == 0)
_SUMS = {
    "total_cost_nano": func.sum(Attempt.cost_nano),
    "generation_count": func.sum(case((_FIRST_ANSWER, 1), else_=0)),
    "attempts": func.count(),
    "failures": func.sum(case((Attempt.success.is_(True), 0), else_=1)),
    "reserved_nano": func.sum(Attempt.reserved_nano),
    "input_tokens": func.sum(Attempt.input_tokens),
    "output_tokens": func.sum(Attempt.output_tokens),
}


def days_since(session: Session, moment: datetime) -> Sequence[str]:
    """The days of attempts that were settled, or corrected, since then, oldest first."""
    return session.scalars(days_statement(moment)).all()


def days_statement(moment: datetime) -> Any:
    """What `days_since` asks."""
    # of a bare column SQLite would walk the whole index, to have it sorted
    day = func.coalesce(Attempt.budget_day, "")
    return select(day).where(Attempt.settled_at >= moment).distinct().order_by(day)


def roll_up_day(session: Session, day: str) -> None:
    """Bring the rows of a day up to what its settled attempts say. It may run as often as you like, but not at the same
    time as another: see `rounds.lock`."""
    session.execute(day_statement(session.get_bind().dialect.name, day))


def day_statement(dialect: str, day: str) -> Any:
    """What `roll_up_day` runs."""
    of_day = (Attempt.budget_day == day) & (Attempt.state != AttemptState.CALLING)
    attempts = select(*_GROUP.values(), *_SUMS.values()).where(of_day).group_by(*_GROUP.values())
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    upsert = insert(_COSTS).from_select([*_GROUP, *_SUMS], attempts, include_defaults=False)
    new = {name: upsert.excluded[name] for name in _SUMS}
    # a row that says it already is not written again
    changed = or_(*(_COSTS.c[name] != value for name, value in new.items()))
    return upsert.on_conflict_do_update(index_elements=list(_GROUP), set_=new, where=changed)


# what costs can be asked by, and its column
BY = {
    "day": _COSTS.c.date,
    "user": _COSTS.c.user_id,
    "model": _COSTS.c.model_name,
    "api": _COSTS.c.api,
    "strategy": _COSTS.c.strategy,
    "kind": _COSTS.c.task_type,
}


def costs(session: Session, first_day: str, by: str) -> Sequence[Row[Any]]:
    """What the days from `first_day` on came to, by one of `BY`: `key`, `cost` in nano-USD, `generations`, `attempts`
    and `failures`; days in their order, the others dearest first."""
    key = BY[by]
    names = {"cost": "total_cost_nano", "generations": "generation_count", "attempts": "attempts",
             "failures": "failures"}  # fmt: skip
    sums = {label: func.sum(_COSTS.c[name]).label(label) for label, name in names.items()}
    order = (key,) if by == "day" else (sums["cost"].desc(), key)
    query = select(key.label("key"), *sums.values()).where(_COSTS.c.date >= first_day).group_by(key).order_by(*order)
    return session.execute(query).all()
