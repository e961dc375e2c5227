"""The daily rollup: it adds up to what the attempts say, to the nano-dollar, however often and late it runs."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from sqlalchemy import CursorResult, func, insert, select, text, update
from sqlalchemy.orm import Session

from db.models import Attempt, AttemptState, DailyCost, Job, utc_now
from db.rollup import BY, costs, day_statement, days_since, days_statement, roll_up_day
from db.rounds import NEVER, ROLLUP, complete, lock
from db.session import engine, read, write

pytestmark = pytest.mark.usefixtures("environment")
DAYS = [f"2026-11-{day:02}" for day in range(18, 23)]
KEYS = ("date", "user_id", "model_name", "task_type", "api", "strategy")
FIGURES = (
    "total_cost_nano", "generation_count", "attempts", "failures", "reserved_nano", "input_tokens", "output_tokens",
)  # fmt: skip
Rows = dict[tuple[Any, ...], tuple[int, ...]]


def attempt(number: int, **columns: Any) -> dict[str, Any]:
    """The columns of attempt `number` of the job `j`."""
    state = columns.get("state", AttemptState.SUCCEEDED)
    return {
        "id": f"a{number}", "job_id": "j", "number": number, "part": 0, "state": state, "model_name": "m",
        "provider": "p", "task_type": "parse", "user_id": None, "api": None, "strategy": "balanced", "reason": "r",
        "budget_day": DAYS[0], "budget_month": "2026-11", "reserved_nano": 900, "cost_nano": 700,
        "success": None if state == AttemptState.CALLING else state == AttemptState.SUCCEEDED, "input_tokens": 10,
        "output_tokens": 5, "settled_at": None if state == AttemptState.CALLING else utc_now(), **columns,
    }  # fmt: skip


def add(*rows: dict[str, Any]) -> None:
    with write() as session:
        if session.get(Job, "j") is None:
            session.add(Job(id="j", kind="parse", queue="parse", payload={}))
            session.flush()
        session.execute(insert(Attempt), list(rows))


def roll_up(*days: str) -> None:
    with write() as session:
        for day in days:
            roll_up_day(session, day)


def rolled_up() -> Rows:
    with read() as session:
        return {
            tuple(getattr(row, name) for name in KEYS): tuple(getattr(row, name) for name in FIGURES)
            for row in session.scalars(select(DailyCost))
        }


def expected(session: Session, *days: str) -> Rows:
    """What the rollup of these days must hold, added up here."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(FIGURES))
    for one in session.scalars(select(Attempt)):
        if one.state == AttemptState.CALLING or one.budget_day not in days:
            continue
        sums = found[one.budget_day, one.user_id or "", one.model_name, one.task_type, one.api or "", one.strategy]
        answered = one.state == AttemptState.SUCCEEDED
        for place, value in enumerate(
            (one.cost_nano, answered and one.part == 0, 1, not answered, one.reserved_nano, one.input_tokens,
             one.output_tokens)
        ):  # fmt: skip
            sums[place] += int(value)
    return {key: tuple(sums) for key, sums in found.items()}


def some_attempts(dice: random.Random, first: int, count: int) -> list[dict[str, Any]]:
    def one(number: int) -> dict[str, Any]:
        state = dice.choice([*AttemptState])
        return attempt(
            number, state=state, part=dice.choice([0, 0, 1]), model_name=dice.choice("mno"),
            task_type=dice.choice(["parse", "embed"]), user_id=dice.choice([None, "1", "2", "ü"]),
            api=dice.choice([None, "keywords"]), strategy=dice.choice(["balanced", "legacy"]),
            budget_day=dice.choice(DAYS), reserved_nano=dice.randrange(2**50),
            cost_nano=0 if state == AttemptState.CALLING else dice.choice([1, dice.randrange(2**50)]),
            input_tokens=dice.randrange(2**31), output_tokens=dice.randrange(2**31),
        )  # fmt: skip

    return [one(number) for number in range(first, first + count)]


@pytest.mark.parametrize("seed", range(4))
def test_the_rollup_is_what_the_attempts_add_up_to_whenever_they_settle(seed: int) -> None:
    dice = random.Random(seed)
    add(*some_attempts(dice, 0, 300))
    for late in range(4):
        roll_up(*DAYS)
        with read() as session:
            assert rolled_up() == expected(session, *DAYS)
            total = session.scalar(select(func.sum(Attempt.cost_nano)))
            assert sum(figures[0] for figures in rolled_up().values()) == total
        # days later: calls end, costs are corrected, and another call of a day that was over is known of
        with write() as session:
            calling = session.scalars(select(Attempt.id).where(Attempt.state == AttemptState.CALLING)).all()
            for name in dice.sample(calling, len(calling) // 2):
                ended = {"state": AttemptState.SUCCEEDED, "success": True, "cost_nano": dice.randrange(2**50)}
                session.execute(update(Attempt).where(Attempt.id == name).values(**ended))
            for number in dice.sample(range(300), 20):
                corrected = update(Attempt).where(Attempt.id == f"a{number}", Attempt.state != AttemptState.CALLING)
                session.execute(corrected.values(cost_nano=dice.randrange(2**50)))
        add(*some_attempts(dice, 1000 * (late + 1), 20))
    before = rolled_up()
    roll_up(*DAYS[:2])
    with read() as session:
        assert rolled_up() == {key: row for key, row in before.items() if key[0] not in DAYS[:2]} | expected(
            session, *DAYS[:2]
        )


def test_rolling_up_again_writes_nothing() -> None:
    add(*some_attempts(random.Random(7), 0, 100))
    roll_up(*DAYS)
    with write() as session:
        for day in DAYS:
            statement = day_statement(engine().dialect.name, day).execution_options(preserve_rowcount=True)
            assert cast("CursorResult[Any]", session.execute(statement)).rowcount == 0


def test_a_job_of_three_attempts_is_counted_once() -> None:
    failed = {"state": AttemptState.FAILED, "cost_nano": 0}
    add(attempt(1, **failed), attempt(2, **failed), attempt(3))
    roll_up(DAYS[0])
    assert rolled_up() == {(DAYS[0], "", "m", "parse", "", "balanced"): (700, 1, 3, 2, 2700, 30, 15)}


def test_the_later_parts_of_a_job_are_no_further_generations() -> None:
    add(*(attempt(1 + part, part=part) for part in range(5)))
    roll_up(DAYS[0])
    (figures,) = rolled_up().values()
    assert figures[:3] == (3500, 1, 5)


def test_the_cost_of_a_generation_is_told_where_there_was_one() -> None:
    add(attempt(1, cost_nano=1), attempt(2, cost_nano=1), attempt(3, cost_nano=5, model_name="n", part=1))
    roll_up(DAYS[0])
    with read() as session:
        rows = session.execute(
            select(DailyCost.total_cost_usd, DailyCost.avg_cost_per_generation).order_by(DailyCost.model_name)
        ).all()
    assert [tuple(row) for row in rows] == [
        (Decimal("0.000000002"), Decimal("0.000000001")), (Decimal("0.000000005"), None),
    ]  # fmt: skip


def test_a_day_without_attempts_or_with_calls_under_way_only_has_no_row() -> None:
    add(attempt(1, state=AttemptState.CALLING, cost_nano=0))
    roll_up(*DAYS)
    assert rolled_up() == {}


def test_the_days_that_changed_are_those_of_what_settled_since() -> None:
    now = utc_now()
    ago = {0: 1, 1: 10, 2: 1, 3: 30}
    add(*(attempt(n, budget_day=DAYS[n], settled_at=now - timedelta(hours=hours)) for n, hours in ago.items()))
    add(attempt(9, budget_day=DAYS[4], state=AttemptState.CALLING))
    with read() as session:
        assert days_since(session, now - timedelta(hours=2)) == [DAYS[0], DAYS[2]]
        assert days_since(session, NEVER) == DAYS[:4]


def test_the_last_complete_round_is_the_one_that_began_last() -> None:
    early, late = (datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21))
    with write() as session:
        assert lock(session, ROLLUP) == NEVER
    for begun_at in (early, late, early):
        with write() as session:
            complete(session, ROLLUP, begun_at)
    with write() as session:
        assert lock(session, ROLLUP) == late


def explained(statement: Any) -> str:
    """The database's plan for a statement."""
    with engine().connect() as connection:
        compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
        how = "EXPLAIN QUERY PLAN" if engine().dialect.name == "sqlite" else "EXPLAIN"
        return "\n".join(str(tuple(row)) for row in connection.execute(text(f"{how} {compiled}".replace(":", "\\:"))))


def test_only_the_days_in_question_are_looked_at() -> None:
    now = utc_now()
    for first in range(0, 6000, 1000):
        add(
            *(
                attempt(
                    n, budget_day=f"2026-{1 + n % 10:02}-{1 + n // 300:02}", settled_at=now - timedelta(minutes=n)
                )
                for n in range(first, first + 1000)
            )
        )  # fmt: skip
    with engine().begin() as connection:
        connection.execute(text("ANALYZE"))
    day = explained(day_statement(engine().dialect.name, "2026-03-07"))
    days = explained(days_statement(now - timedelta(hours=2)))
    assert "ix_attempts_day" in day and "ix_attempts_settled" in days, f"{day}\n{days}"
    assert "Seq Scan" not in day + days and "SCAN model_performance_metrics" not in day + days, f"{day}\n{days}"


@pytest.mark.parametrize("by", BY)
def test_costs_are_told_by_each_of_their_keys(by: str) -> None:
    old = {"budget_day": DAYS[0], "cost_nano": 10**6}
    add(attempt(1, **old), attempt(2, budget_day=DAYS[2], cost_nano=5), attempt(3, budget_day=DAYS[1], cost_nano=2),
        attempt(4, budget_day=DAYS[2], cost_nano=3, state=AttemptState.UNKNOWN),
        attempt(5, budget_day=DAYS[1], cost_nano=100, model_name="n", user_id="7", api="k", strategy="legacy",
                task_type="embed"))  # fmt: skip
    roll_up(*DAYS)
    with read() as session:
        found = [tuple(row) for row in costs(session, DAYS[1], by)]
    names = {"model": ("n", "m"), "user": ("7", ""), "api": ("k", ""), "strategy": ("legacy", "balanced"),
             "kind": ("embed", "parse")}  # fmt: skip
    if by == "day":
        assert found == [(DAYS[1], 102, 2, 2, 0), (DAYS[2], 8, 1, 2, 1)]
    else:
        assert found == [(names[by][0], 100, 1, 1, 0), (names[by][1], 10, 2, 3, 1)]
