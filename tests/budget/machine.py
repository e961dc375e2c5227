"""What the steps of `test_ledger_model` have in common: the ledger and its reference side by side, commands and replies
that get lost on the way, and SQL as the reference has it."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from typing import Any, ClassVar

import redis
from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import delete, insert

from budget.compare import differences
from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.ledger import Ledger
from budget.rebuild import rebuild_if_cold
from budget.settings import BudgetSettings
from db.models import Attempt, AttemptState, Change, CostBasis, Job, JobState
from db.session import write
from tests.budget.conftest import WIDE, hold, usd
from tests.budget.reference import MOST, TAG, Reference, Row

# steps by kind of machine, and what calls were answered
STEPS: Counter[str] = Counter()
ANSWERS: Counter[str] = Counter()

NAMES = {"daily": "daily_budget_usd", "monthly": "monthly_budget_usd", "user": "max_cost_per_user_daily_usd"}
STATES = {
    "calling": AttemptState.CALLING, "usage": AttemptState.SUCCEEDED, "not_billed": AttemptState.FAILED,
    "reservation": AttemptState.UNKNOWN, "by_hand": AttemptState.SUCCEEDED,
}  # fmt: skip
BASIS = {"settle": "usage", "release": "not_billed", "expire": "reservation", "correct": "by_hand"}
HOW = {basis: how for how, basis in BASIS.items()}

# all keys at once: name, what it holds, seconds that it has left
DUMP = """
local found = {}
for i, key in ipairs(redis.call('KEYS', '*')) do
    local kind, content = redis.call('TYPE', key).ok, {}
    if kind == 'hash' then content = redis.call('HGETALL', key)
    elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
    found[i] = {key, kind, content, redis.call('TTL', key)}
end
return found
"""


def answer(act: Callable[[], Any]) -> Any:
    """What the ledger answered, as the reference writes it."""
    try:
        return act()
    except BudgetExceeded as over:
        return ("over", over.scope, over.limit, over.spent, over.reserved)
    except LedgerCold:
        return ("cold",)
    except LedgerDown:
        return ("down",)


class Bench(RuleBasedStateMachine):
    """The ledger beside its reference. What varies between the servers is in `start` and `later`."""

    kind: ClassVar[str]
    make_ledger: ClassVar[Callable[..., Ledger]] = Ledger
    rebuilds: ClassVar[Callable[..., bool]] = staticmethod(rebuild_if_cold)
    with_losses: ClassVar[bool] = True

    def start(self) -> tuple[redis.Redis, str]:
        """An empty server and its id."""
        raise NotImplementedError

    def later(self, seconds: int) -> None:
        """Move on: by so many seconds, or into the next day where the clock cannot be moved."""
        raise NotImplementedError

    def zone(self) -> Any:
        return UTC

    def begin(self, limits: dict[str, int | None]) -> None:
        self.client, server = self.start()
        self.plan: list[str] = []
        environment = BudgetSettings(**WIDE).model_copy(update={"budget_timezone": self.zone()})
        self.ledger = type(self).make_ledger(self.client, environment)
        for name in ("_reserve", "_extend", "_take_limits"):
            setattr(self.ledger, name, self.lossy(getattr(self.ledger, name)))
        self.ledger._close = {name: self.lossy(script) for name, script in self.ledger._close.items()}
        self.look = self.client.register_script(DUMP)
        self.reference = Reference(self.zone(), {}, server)
        self.jobs, self.made, self.cold_for = ["j0", "j1", "e0"], 0, 0
        self.written, self.ended = "", 0
        for name, limit in limits.items():
            self.set_limit(name, limit)
        self.rebuild_both()

    def lossy(self, script: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            fault = self.plan.pop(0) if self.plan else None
            if fault == "before":
                raise redis.ConnectionError("the command was lost")
            reply = script(*given, **named)
            if fault == "after":
                raise redis.TimeoutError("the reply was lost")
            return reply

        return run

    def now(self) -> float:
        return time.time()

    def compare_answers(self, lost: tuple[str, ...], act: Callable[[], Any], model: Callable[[], Any]) -> Any:
        """Do it in both ledgers, with commands and replies lost; both must answer the same."""
        if not self.with_losses:
            lost = ()
        self.cold_for += not self.reference.warm
        arrived, answered = len(lost) < 2 or "after" in lost, len(lost) < 2
        self.plan = list(lost)
        found = answer(act)
        self.plan = []
        expected = model() if arrived else None
        expected = expected if answered else ("down",)
        assert found == expected, f"the ledger answered {found}, not {expected}"
        ANSWERS[found if isinstance(found, str) else found[0]] += 1
        if self.cold_for > 2:
            self.rebuild_both()
        return found

    def pick(self, number: int) -> Row | None:
        rows = list(self.reference.rows.values())[-12:]
        return rows[number % len(rows)] if rows else None

    def cap_of(self, job: str, cap: int) -> int | None:
        return None if job.startswith("e") else cap

    def reserve_both(self, row: tuple[Any, ...], lease: int, lost: tuple[str, ...]) -> Any:
        attempt, amount, user, job, cap = row

        def act() -> tuple[Any, ...]:
            held = hold(self.ledger, attempt, amount, job_id=job, user_id=user, job_cap=cap, lease_s=lease)
            assert held.day == held.scope_keys[0][-10:] and held.month == held.day[:7]
            return ("reserved", held.attempt_id, held.amount, held.scope_keys)

        return self.compare_answers(
            lost, act, lambda: self.reference.reserve(self.now(), attempt, amount, user, job, cap, lease)
        )

    def reserve_one(
        self, amount: int, user: str | None, job: int, cap: int, lease: int, lost: tuple[str, ...], recorded: bool
    ) -> None:
        name = self.jobs[job % len(self.jobs)]
        self.made += 1
        attempt = f"a{self.made}"
        found = self.reserve_both((attempt, amount, user, name, self.cap_of(name, cap)), lease, lost)
        if found[0] == "reserved":
            keys = self.dump()
            for _, key, limit, _ in self.reference.scopes(self.now(), user, name, self.cap_of(name, cap)):
                held = sum(int(keys[key][0].get(one, 0)) for one in ("spent", "reserved"))
                assert held <= limit, f"over the limit: {key} holds {held} of {limit}"
            if recorded:
                self.reference.rows[attempt].basis = "calling"

    def end_one(self, how: str, pick: int, cost: int, lost: tuple[str, ...]) -> None:
        """SQL first, then the ledger, as it is done; where SQL would refuse, the ledger is asked all the same, unless
        it waits for what SQL says."""
        row = self.pick(pick)
        if row is None or (row.basis is None and how != "release"):
            return
        if sum(other.spent for other in self.reference.rows.values()) > 4 * MOST:
            cost = min(cost, 60)  # counters beyond 17 digits are refused
        cost = {"release": 0, "expire": row.amount}.get(how, cost)
        allowed = {"calling": ("settle", "release", "expire"), "reservation": ("settle", "release", "correct")}
        if row.basis and how in allowed.get(row.basis, ("correct",)):
            row.basis, row.cost = BASIS[how], cost
        elif row.basis and row.state in ("open", "expired"):
            how, cost = HOW.get(row.basis, "expire"), row.cost
            if row.basis == "calling":
                row.basis, cost = "reservation", row.amount
                row.cost = cost
        self.end_both(how, row, cost, lost)

    def end_both(self, how: str, row: Row, cost: int, lost: tuple[str, ...] = ()) -> None:
        self.ended += 1
        by_basis = row.basis and self.ended % 2

        def act() -> Any:
            if by_basis:
                self.ledger.conclude(row.attempt, row.keys, CostBasis(BASIS[how]), cost)
                return "concluded"
            costs = (cost,) if how in ("settle", "correct") else ()
            return getattr(self.ledger, how)(row.attempt, row.keys, *costs)

        def model() -> Any:
            state = self.reference.end(self.now(), how, row, cost)
            return "concluded" if by_basis and isinstance(state, str) else state

        self.compare_answers(lost, act, model)

    def take(self, limits: dict[str, int], version: int, lost: tuple[str, ...]) -> None:
        lost = lost if self.with_losses else ()
        self.plan = list(lost)
        assert answer(lambda: self.ledger.take_limits(limits, version)) == (("down",) if lost else None)
        self.plan = []
        if lost != ("before",):
            self.reference.take_limits(limits, version)

    def set_limit(self, name: str, limit: int | None) -> None:
        """Another limit in the environment; a worker reads it as it starts."""
        read = BudgetSettings(**{**WIDE, NAMES[name]: "unlimited" if limit is None else usd(limit)})
        self.ledger.settings = self.ledger.settings.model_copy(update={NAMES[name]: getattr(read, NAMES[name])})
        self.reference.limits[name] = limit

    def rebuild_both(self) -> None:
        self.write_sql()
        was_warm = self.reference.warm
        assert type(self).rebuilds(self.ledger, wait_s=0) == (not was_warm)
        if not was_warm:
            self.reference.rebuild(self.now())
        self.cold_for = 0

    def write_sql(self) -> None:
        known = [row for row in self.reference.rows.values() if row.basis]
        final = self.reference.final_jobs
        jobs = [
            {"id": job, "kind": "embed" if job.startswith("e") else "parse", "queue": "q", "payload": {},
             "state": JobState.SUCCEEDED if job in final else JobState.RUNNING}
            for job in sorted({row.job for row in known})
        ]  # fmt: skip
        attempts = [
            {"id": row.attempt, "job_id": row.job, "number": number, "model_name": "m", "provider": "p",
             "task_type": "parse", "strategy": "s", "reason": "r", "user_id": row.user, "budget_day": row.day,
             "budget_month": row.month, "reserved_nano": row.amount, "cost_nano": row.cost,
             "state": STATES[row.basis or ""], "cost_basis": None if row.basis == "calling" else row.basis}
            for number, row in enumerate(known)
        ]  # fmt: skip
        changes = [
            {"id": number, "what": "limit", "subject": name, "who": "w",
             "after": "unlimited" if limit == MOST else None if limit is None else usd(limit)}
            for number, (name, limit) in enumerate(self.reference.changes, 1)
        ]  # fmt: skip
        if (written := repr((jobs, attempts, changes))) == self.written:
            return
        self.written = written
        with write() as session:
            for table in (Attempt, Job, Change):
                session.execute(delete(table))
            for table, rows in ((Job, jobs), (Attempt, attempts), (Change, changes)):
                if rows:
                    session.execute(insert(table), rows)

    def dump(self) -> dict[str, tuple[dict[str, str], int]]:
        found = {}
        for key, _, content, left in self.look():
            found[key] = (dict(zip(content[::2], content[1::2], strict=True)), left)
        return found

    @invariant()
    def everything_is_as_in_the_reference(self) -> None:
        STEPS[self.kind] += 1
        found, now = self.dump(), self.now()
        expected = self.reference.content()
        assert found.keys() == expected.keys(), f"keys differ: {found.keys() ^ expected.keys()}"
        for key, (content, left) in found.items():
            assert key.startswith("{paymaster}:")
            right, end = expected[key]
            assert (left == -1) == (end is None), f"{key} goes in {left} s"
            assert end is None or abs(end - now - left) <= 3, f"{key} goes in {left} s"
            if key == f"{TAG}:open":
                assert content.keys() == right.keys(), f"open ones differ: {content.keys() ^ right.keys()}"
                late = [one for one in right if abs(float(content[one]) - float(right[one])) > 3]
                assert not late, f"leases differ: {late}"
            elif ":reservation:" in key or key == f"{TAG}:warm":
                assert content == right, f"{key} holds {content}, not {right}"
            else:
                amounts = {"spent": "0", "reserved": "0"} | content
                assert all(int(amount) >= 0 for amount in amounts.values()), f"{key} is negative: {content}"
                assert amounts == right, f"counters differ: {key} holds {content}, not {right}"

    def teardown(self) -> None:
        """In the end the marker is lost, and all calls end; then Redis and SQL agree on every one."""
        if not hasattr(self, "cold_for"):
            return
        self.client.delete(f"{TAG}:warm")
        self.reference.lose(everything=False)
        self.rebuild_both()
        for row in list(self.reference.rows.values()):
            if row.basis == "calling":
                row.basis, row.cost = "usage", row.amount // 2
                self.end_both("settle", row, row.cost)
        self.everything_is_as_in_the_reference()
        self.write_sql()
        assert differences(self.ledger) == []
