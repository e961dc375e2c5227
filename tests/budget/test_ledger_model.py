"""Any order of everything that can happen to the ledger, compared after each step with a ledger in plain Python: on a
real server, and on fakeredis where the clock can be moved. Hypothesis makes up the orders and shortens those that fail.

The seed is printed, and `LEDGER_MODEL_SEED=… pytest tests/budget/test_ledger_model.py` runs the same steps again.
"""

import os
import secrets
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from budget.compare import differences
from budget.connection import connect
from db.session import engine
from tests.budget.conftest import hold
from tests.budget.machine import ANSWERS, BASIS, HOW, NAMES, STEPS, Bench, answer
from tests.budget.reference import DAY_S, MOST, TAG

pytestmark = pytest.mark.xdist_group("ledger_model")

SEED = int(os.environ.get("LEDGER_MODEL_SEED", secrets.randbits(48)))
AT_LEAST = 10_000
# what calls were answered; each often
ANSWERED = ("reserved", "over", "down", "cold", "open", "settled", "released", "expired", "absent")
EXAMPLES = {"real": 200, "fake": 40}
STEPS_EACH = 50

LOST = st.sampled_from([*[()] * 8, ("before",), ("after",), ("before", "before"), ("after", "after"),
                        ("before", "after"), ("after", "before")])  # fmt: skip
SMALL = st.integers(0, 60)
AMOUNT = st.one_of(SMALL, SMALL, SMALL, SMALL, st.sampled_from([0, 1, MOST - 1, MOST]))
# never exactly when a key goes, and with one step to the last second of a day
NEXT_DAY = DAY_S + 7
BAD = st.sampled_from(["1e14", 1e14, 2**53, 2**63, -1, 1.5, "", "0x1", "9" * 17])
LIMIT = st.sampled_from([300, 1000, MOST, None, 1000, 100, 300, 1, 0])
USER = st.sampled_from([None, "u1", "u2"])
CAP = st.sampled_from([100, 300, 10**12, MOST, 10**12, 0])
PICK = st.integers(0, 11)


def with_rows(machine: Any) -> bool:
    return bool(machine.reference.rows)


class Server(fakeredis.FakeRedis):
    """fakeredis with the one answer to INFO that a rebuild needs."""

    def info(self, section: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return {"run_id": ""}


class Machine(Bench):
    """All that can happen."""

    @initialize(**dict.fromkeys(("daily", "monthly", "user"), st.sampled_from([None, 1000, 300])))
    def set_up(self, **limits: int | None) -> None:
        self.begin(limits)

    @rule(calls=st.lists(
        st.fixed_dictionaries({
            "amount": AMOUNT, "user": USER, "job": PICK, "cap": CAP, "lease": st.sampled_from([60, -5, 900]),
            "lost": LOST, "recorded": st.sampled_from([True, True, True, True, False]),
        }), min_size=1, max_size=4,
    ))  # fmt: skip
    def reserve(self, calls: list[dict[str, Any]]) -> None:
        for call in calls:
            self.reserve_one(**call)
            self.everything_is_as_in_the_reference()

    @precondition(with_rows)
    @rule(pick=PICK, lost=LOST)
    def reserve_again(self, pick: int, lost: tuple[str, ...]) -> None:
        row = self.pick(pick)
        if row and row.state:
            self.reserve_both((row.attempt, row.amount, row.user, row.job, 10**12), 60, lost)

    @precondition(with_rows)
    @rule(ends=st.lists(
        st.fixed_dictionaries({"how": st.sampled_from([*BASIS]), "pick": PICK, "cost": AMOUNT, "lost": LOST}),
        min_size=1, max_size=4,
    ))  # fmt: skip
    def end(self, ends: list[dict[str, Any]]) -> None:
        for one in ends:
            self.end_one(**one)
            self.everything_is_as_in_the_reference()

    @precondition(with_rows)
    @rule(pick=PICK, lease=st.sampled_from([0, 60, 900]), lost=LOST)
    def extend(self, pick: int, lease: int, lost: tuple[str, ...]) -> None:
        if row := self.pick(pick):
            self.compare_answers(
                lost,
                lambda: self.ledger.extend(row.attempt, lease),
                lambda: self.reference.extend(self.now(), row, lease),
            )

    @precondition(with_rows)
    @rule(pick=PICK, bad=BAD, how=st.sampled_from(["reserve", "settle", "correct", "extend"]))
    def no_amount(self, pick: int, bad: Any, how: str) -> None:
        row = self.pick(pick)
        if how == "reserve":
            self.compare_answers(
                (), lambda: hold(self.ledger, "bad", bad),
                lambda: ("down",),
            )  # fmt: skip
        elif row:
            arguments = (row.attempt, bad) if how == "extend" else (row.attempt, row.keys, bad)
            self.compare_answers((), lambda: getattr(self.ledger, how)(*arguments), lambda: ("down",))

    @precondition(with_rows)
    @rule()
    def sweep(self) -> None:
        """As the sweeper does: what is overdue gets what SQL knows; unknown to SQL means not sent."""
        found = self.ledger.overdue()
        rows = [row for row in self.reference.rows.values() if row.listed is not None and row.listed <= self.now()]
        assert dict(found) == {row.attempt: row.keys for row in rows if row.state}
        for row in rows:
            row.listed = row.listed if row.state else None
        for row in rows if self.reference.warm else ():
            if row.basis == "calling":
                row.basis, row.cost = "reservation", row.amount
            if row.state:
                self.end_both(HOW[row.basis or "not_billed"], row, row.cost)

    @precondition(with_rows)
    @rule(everything=st.booleans())
    def lose(self, everything: bool) -> None:
        self.client.flushall() if everything else self.client.delete(f"{TAG}:warm")
        self.reference.lose(everything)

    @rule()
    def rebuild(self) -> None:
        self.rebuild_both()

    @rule(name=st.sampled_from([*NAMES]), limit=LIMIT)
    def set_environment(self, name: str, limit: int | None) -> None:
        self.set_limit(name, limit)

    @rule(name=st.sampled_from([*NAMES]), limit=LIMIT, lost=st.sampled_from([(), (), ("before",), ("after",)]))
    def set_live(self, name: str, limit: int | None, lost: tuple[str, ...]) -> None:
        """A limit by hand, or back to the environment's."""
        self.reference.changes.append((name, limit))
        self.take(self.reference.limits_in_force(), len(self.reference.changes), lost)

    @precondition(lambda self: self.reference.changes)
    @rule(back=st.integers(0, 3))
    def take_limits_of_then(self, back: int) -> None:
        """A sweeper that has read SQL now, or before the last changes."""
        then = max(0, len(self.reference.changes) - back)
        limits = {name: limit for name, limit in dict(self.reference.changes[:then]).items() if limit is not None}
        self.take(limits, then, ())

    @precondition(with_rows)
    @rule(pick=PICK)
    def finish_job(self, pick: int) -> None:
        """A job makes no call any more; another takes its place."""
        job = self.jobs.pop(pick % len(self.jobs))
        self.reference.final_jobs.add(job)
        self.jobs.append(f"{job[0]}{len(self.reference.final_jobs) + 2}")

    @precondition(with_rows)
    @rule(seconds=st.sampled_from([1, 3_601, 52_199, NEXT_DAY]))
    def time_passes(self, seconds: int) -> None:
        self.later(seconds)
        self.reference.tick(self.now())

    @rule()
    def zone_of_another(self) -> None:
        """A worker whose days are others' gets nothing."""
        mine = self.ledger.settings
        self.ledger.settings = mine.model_copy(update={"budget_timezone": timezone(timedelta(minutes=17))})
        expected = ("down",) if self.reference.warm else ("cold",)
        assert answer(lambda: hold(self.ledger, "z", 0)) == expected
        self.ledger.settings = mine

    @rule(user=USER, cap=CAP)
    def usage(self, user: str | None, cap: int) -> None:
        scopes = self.reference.scopes(self.now(), user, "j0", cap)
        expected: Any = [
            (name, None if limit == MOST else limit, *self.reference.standing(key)) for name, key, limit, _ in scopes
        ]
        found = answer(lambda: self.ledger.usage(user_id=user, job_id="j0", job_cap=cap))
        if self.reference.warm:
            # an environment's limit of the largest amount and a job's are told as they are, unlike none
            found = [(of.name, None if of.limit == MOST else of.limit, of.spent, of.reserved) for of in found]
        assert found == (expected if self.reference.warm else ("cold",))

    @precondition(with_rows)
    @rule()
    def compare_with_sql(self) -> None:
        """The check finds nothing where nothing differs, and one nano-dollar where it does."""
        if not self.reference.warm:
            return
        self.write_sql()
        day = self.reference.scopes(self.now(), None, "", None)[0][1]
        if self.reference.differences(self.now()):
            return
        assert differences(self.ledger) == []
        for field in ("spent", "reserved") if day in self.reference.figures(self.now())[0] else ():
            self.client.hincrby(day, field, 1)
            found = [(one.key, one.field, int(one.redis or 0) - int(one.sql or 0)) for one in differences(self.ledger)]
            self.client.hincrby(day, field, -1)
            assert found == [(day, field, 1)]


class OnFake(Machine):
    """With a clock that stands still unless it is moved: from four days before the end of a month."""

    kind = "fake"

    def start(self) -> tuple[redis.Redis, str]:
        self.clock = datetime(2026, 11, 27, 9, 30, 0, 250_000, tzinfo=UTC).timestamp()
        self.last = self.clock + 6.5 * DAY_S  # a job's counter is kept for seven days
        self.patches = patch("time.time", lambda: self.clock)
        self.patches.start()
        return Server(decode_responses=True), ""

    def later(self, seconds: int) -> None:
        self.clock = min(self.last, self.clock + seconds)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "patches"):
                self.patches.stop()


class OnReal(Machine):
    """On a server whose clock cannot be moved: the next day comes as the budget's days begin earlier."""

    kind = "real"
    client_of_all: ClassVar[redis.Redis]

    def start(self) -> tuple[redis.Redis, str]:
        self.client_of_all.flushall()
        return self.client_of_all, self.client_of_all.info("server")["run_id"]

    def zone(self) -> Any:
        # it is about ten in the morning there, so that no midnight comes in between
        hour = datetime.now(UTC).hour
        return timezone(timedelta(hours=10 - hour if hour >= 11 else -13 - hour))

    def later(self, seconds: int) -> None:
        if seconds == NEXT_DAY and self.reference.zone == self.zone():
            self.reference.zone = timezone(self.zone().utcoffset(None) + timedelta(hours=24))
            self.ledger.settings = self.ledger.settings.model_copy(update={"budget_timezone": self.reference.zone})
            if self.reference.warm:
                self.client.hset(f"{TAG}:warm", "zone", str(self.reference.zone))


def run(
    machine: type[Machine], examples: int, steps: int = STEPS_EACH, *, shorten: bool = True, seeded: int = SEED
) -> None:
    """So many examples of so many steps, or until one of them fails: an `AssertionError` says where the ledger is not
    as its reference."""
    event.listen(engine(), "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    phases = [Phase.generate, Phase.shrink] if shorten else [Phase.generate]
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, phases=phases, print_blob=True, derandomize=False,
        deadline=None, database=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with patch("budget.compare.time", SimpleNamespace(sleep=lambda _: None)):
        run_state_machine_as_test(seed(seeded)(machine), settings=chosen)


@pytest.mark.timeout(300)
def test_the_ledger_is_as_its_reference_after_every_step(environment: None, redis_server: str) -> None:
    """And no fewer steps are taken than are promised, with every kind of answer among them."""
    OnReal.client_of_all = connect(redis_server)
    STEPS.clear()
    ANSWERS.clear()
    print(f"LEDGER_MODEL_SEED={SEED}")
    for machine in (OnReal, OnFake):
        run(machine, EXAMPLES[machine.kind])
    print(f"steps: {dict(STEPS)}, answers: {dict(ANSWERS)}")
    assert sum(STEPS.values()) >= AT_LEAST
    assert STEPS["fake"] >= AT_LEAST // 10
    assert all(ANSWERS[one] >= 5 for one in ANSWERED), ANSWERS
