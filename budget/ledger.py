"""The ledger: reserve the worst case before a call, end the reservation with what the call cost after it. Counters
live in Redis and change only in the scripts beside this file; SQL is the record that they are rebuilt from.

    open ──settle──▶ settled    charged what the call cost
      ├────release─▶ released   charged nothing: the provider cannot have billed it
      └────expire──▶ expired    charged the whole reservation, until a late settle or release corrects it
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from budget.breaker import NOTHING_TOLD, BreakerState, Told
from budget.connection import Script, connect, connect_loop, down
from budget.errors import BreakerOpen, BudgetExceeded, LedgerCold, LedgerDown
from budget.money import MAX_NANO
from budget.periods import Periods, periods_at
from budget.pipe import Pipe
from budget.scopes import (
    KEEP_AFTER_PERIOD_S,
    KEEP_JOB_S,
    OPEN,
    SWEPT,
    WARM,
    Scope,
    breaker_key,
    job_key,
    reservation_key,
    scopes_of,
)
from budget.settings import BreakerSettings, BudgetSettings
from db.environment import read_settings
from db.models import CostBasis
from db.once import once_per_environment

logger = logging.getLogger(__name__)

# A reservation that is over answers replays, and can be corrected, for this long.
KEEP_CLOSED_S = 86_400
MOST_OVERDUE = 500


HOW_IT_ENDS = {
    CostBasis.USAGE: "settle",
    CostBasis.NOT_BILLED: "release",
    CostBasis.RESERVATION: "expire",
    CostBasis.BY_HAND: "correct",
}


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money held for one attempt, in nano-USD, and the scopes that hold it, the day's and the month's first. `breaker`
    is the state that the model's breaker changed to, if it did: an attempt may be the probe of a half-open one."""

    attempt_id: str
    amount: int
    scope_keys: tuple[str, ...]
    breaker: BreakerState | None = None

    @property
    def day(self) -> str:
        """The day that pays, such as `2026-11-22`."""
        return self.scope_keys[0].rpartition(":")[2]

    @property
    def month(self) -> str:
        """The month that pays, such as `2026-11`."""
        return self.scope_keys[1].rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class ScopeUse:
    """How one scope stands, in nano-USD; `resets_at` in seconds since 1970, None if it never does."""

    name: str
    limit: int | None
    spent: int
    reserved: int
    resets_at: int | None

    @property
    def left(self) -> int | None:
        """What can still be reserved; None if there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)


class Ledger:
    """Admission to spend money. Every method raises `LedgerDown` when Redis gives no usable answer and `LedgerCold`
    when its counters cannot be trusted; either way nothing may be spent. Every method may be repeated."""

    def __init__(
        self,
        client: redis.Redis,
        settings: BudgetSettings,
        breaker_settings: BreakerSettings | None = None,
        pipe: Pipe | None = None,
    ) -> None:
        self.client = client
        self._pipe = pipe
        self.settings = settings
        breaker = breaker_settings or BreakerSettings()
        self._breaker_args = [
            breaker.breaker_window_s, breaker.breaker_min_calls, int(100 * breaker.breaker_failure_share),
            breaker.breaker_cooldown_s,
        ]  # fmt: skip
        self._reserve = Script(client, "checks", "breaker", "reserve", pipe=pipe)
        self._extend = Script(client, "checks", "extend")
        self._take_limits = Script(client, "limits")
        self._restore = Script(client, "restore")
        self._close = {
            name: Script(client, "checks", "breaker", "close", name, pipe=pipe)
            for name in ("settle", "release", "expire", "correct")
        }

    def dispose(self) -> None:
        """Close the connections."""
        self.client.close()
        if self._pipe is not None:
            self._pipe.close()

    def reserve(
        self,
        attempt_id: str,
        amount: int,
        *,
        model: str = "",
        job_id: str,
        user_id: str | None,
        job_cap: int | None,
        lease_s: int,
        probe_s: int = 120,
    ) -> Reservation:
        """Hold `amount` nano-USD in every scope for a call to `model`, or raise `BreakerOpen`, or `BudgetExceeded` for
        the first scope that has no room. `probe_s` is how long the call may take, if it is to probe the breaker.

        After `lease_s` the sweeper asks SQL what became of the attempt."""
        moment = time.time()
        zone = self.settings.budget_timezone
        for _ in range(2):
            periods = periods_at(moment, zone)
            scopes = scopes_of(periods, self.settings, user_id=user_id, job_id=job_id, job_cap=job_cap)
            reply = self._run(
                self._reserve,
                [WARM, reservation_key(attempt_id), OPEN, breaker_key(model), *(scope.key for scope in scopes)],
                [
                    amount, str(zone), periods.day_start, periods.day_end, lease_s,
                    periods.month_end + KEEP_AFTER_PERIOD_S, probe_s, *_limits(scopes),
                ],
            )  # fmt: skip
            match reply:
                case ["reserved", held, scope_keys, breaker]:
                    return Reservation(attempt_id, int(held), tuple(scope_keys.split("\n")), _state(breaker))
                case ["breaker", until]:
                    raise BreakerOpen(model, int(until))
                case ["over", number, spent, reserved, limit]:
                    scope = scopes[int(number) - 1]
                    raise BudgetExceeded(scope.name, int(limit), int(spent), int(reserved), amount, scope.resets_at)
                case ["zone", other]:
                    self.check_zone(other)
                case ["period", now]:
                    moment = float(now)  # our clock and Redis' disagree about the day: Redis' counts
                case _:
                    raise LedgerDown(f"the reservation {attempt_id} is over already")
        raise LedgerDown("the clock of the ledger's Redis jumped over midnight twice")

    def settle(self, attempt_id: str, scope_keys: Sequence[str], actual: int) -> str:
        """Charge what the call cost, in nano-USD. Like all that end a reservation, it returns the state that the
        reservation is in then; `absent` if Redis does not know it (any more)."""
        return self._end("settle", attempt_id, scope_keys, actual)[0]

    def release(self, attempt_id: str, scope_keys: Sequence[str]) -> str:
        """Give the reservation back: the provider cannot have billed the call."""
        return self._end("release", attempt_id, scope_keys, 0)[0]

    def expire(self, attempt_id: str, scope_keys: Sequence[str]) -> str:
        """Charge the whole reservation, since nobody knows what the call cost; a later settle corrects it."""
        return self._end("expire", attempt_id, scope_keys, None)[0]

    def correct(self, attempt_id: str, scope_keys: Sequence[str], actual: int) -> str:
        """Charge `actual` nano-USD instead of what the reservation holds or was charged."""
        return self._end("correct", attempt_id, scope_keys, actual)[0]

    def conclude(
        self,
        attempt_id: str,
        scope_keys: Sequence[str],
        basis: CostBasis,
        cost: int,
        model: str = "",
        told: Told = NOTHING_TOLD,
    ) -> BreakerState | None:
        """End the reservation of an attempt as SQL has its outcome: how its cost is known, and what it is. `told` is
        what the call says of `model`; returns the state that its breaker changed to, if it did."""
        how = HOW_IT_ENDS[CostBasis(basis)]
        charge = None if how == "expire" else cost
        return self._end(how, attempt_id, scope_keys, charge, model, told)[1]

    def _end(
        self,
        how: str,
        attempt_id: str,
        scope_keys: Sequence[str],
        charge: int | None,
        model: str = "",
        told: Told = NOTHING_TOLD,
    ) -> tuple[str, BreakerState | None]:
        state, charged, breaker, *_ = (
            *self._run(
                self._close[how],
                [WARM, reservation_key(attempt_id), OPEN, breaker_key(model), *scope_keys],
                [0 if charge is None else charge, KEEP_CLOSED_S, told.verdict, told.closed_for_s, *self._breaker_args],
            ),
            "",
            "",
        )
        if charge is not None and charged and int(charged) != charge:
            logger.error("attempt %s is %s at %s nano-USD already, not %d", attempt_id, state, charged, charge)
        return state, _state(breaker)

    def extend(self, attempt_id: str, lease_s: int) -> str:
        """Make the lease of an open reservation new; returns the state of the reservation."""
        return self._run(self._extend, [WARM, reservation_key(attempt_id), OPEN], [lease_s])[0]

    def overdue(self) -> list[tuple[str, tuple[str, ...]]]:
        """Reservations that SQL should be asked about, longest due first: (attempt id, scope keys). At most 500."""
        try:
            now = self.client.time()[0]
            keys: Any = self.client.zrange(OPEN, "-inf", now, byscore=True, offset=0, num=MOST_OVERDUE)
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hget(key, "scopes")
                scopes = pipe.execute()
            if gone := [key for key, held in zip(keys, scopes, strict=True) if not held]:
                self.client.zrem(OPEN, *gone)
        except redis.RedisError as error:
            raise down(error) from None
        return [
            (key.rpartition(":")[2], tuple(held.split("\n"))) for key, held in zip(keys, scopes, strict=True) if held
        ]

    def usage(
        self, *, user_id: str | None = None, job_id: str = "", job_cap: int | None = None, moment: float | None = None
    ) -> list[ScopeUse]:
        """How the day and the month stand; the user's day and the job's cap, too, if they are given. `moment` (seconds
        since 1970) says which day it is, where asking Redis' own clock is not worth a round trip."""
        periods = self.periods() if moment is None else periods_at(moment, self.settings.budget_timezone)
        scopes = scopes_of(periods, self.settings, user_id=user_id, job_id=job_id, job_cap=job_cap)
        return self._uses(scopes)

    def usage_of_users(self, user_ids: Sequence[str], moment: float | None = None) -> dict[str, ScopeUse]:
        """How the budgets of these users stand for today, or for the day that holds `moment` (seconds since 1970)."""
        periods = self.periods() if moment is None else periods_at(moment, self.settings.budget_timezone)
        scopes = [
            scopes_of(periods, self.settings, user_id=user_id, job_id="", job_cap=None)[-1] for user_id in user_ids
        ]
        return dict(zip(user_ids, self._uses(scopes), strict=True))

    def periods(self) -> Periods:
        """The current periods by the clock of the ledger's Redis, which is the one that counts."""
        try:
            seconds, microseconds = self.client.time()
        except redis.RedisError as error:
            raise down(error) from None
        return periods_at(seconds + microseconds / 1e6, self.settings.budget_timezone)

    def check_zone(self, zone: str) -> None:
        """Raise `LedgerDown` if the ledger's days are those of another zone than ours."""
        if zone != str(self.settings.budget_timezone):
            raise LedgerDown(
                f"BUDGET_TIMEZONE is {self.settings.budget_timezone} here, but the ledger's days are those of {zone}; "
                "use that zone, or start all workers with the new one and run `paymaster budget rebuild --new-zone`"
            )

    def _uses(self, scopes: list[Scope]) -> list[ScopeUse]:
        try:
            with self.client.pipeline() as pipe:
                pipe.hgetall(WARM)
                for scope in scopes:
                    pipe.hmget(scope.key, ["spent", "reserved"])
                marker, *held = pipe.execute()
        except redis.RedisError as error:
            raise down(error) from None
        if not marker:
            raise LedgerCold("the ledger's counters are not rebuilt from SQL yet; a worker does so within seconds")
        self.check_zone(marker["zone"])
        return [
            ScopeUse(
                scope.name, _limit(marker.get(scope.name, scope.limit)), int(spent or 0), int(reserved or 0),
                scope.resets_at,
            )
            for scope, (spent, reserved) in zip(scopes, held, strict=True)
        ]  # fmt: skip

    def restore_job(self, job_id: str, spent: int) -> None:
        """Let a job that is over spend again, and not forget what it has spent (nano-USD): its counter may be gone."""
        try:
            self._restore(keys=[job_key(job_id)], args=[spent, self.periods().month_end + KEEP_JOB_S])
        except redis.RedisError as error:
            raise down(error) from None

    def note_sweep(self) -> None:
        """Leave a sign of life of the sweeper, and so of beat, which sends it."""
        try:
            self.client.set(SWEPT, int(time.time()))
        except redis.RedisError as error:
            raise down(error) from None

    def signs_of_life(self) -> tuple[int, float | None]:
        """How many reservations are open, and when the sweeper was last here (seconds since 1970)."""
        try:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.zcard(OPEN)
                pipe.get(SWEPT)
                held, swept = pipe.execute()
        except redis.RedisError as error:
            raise down(error) from None
        return int(held), float(swept) if swept else None

    def take_limits(self, limits: Mapping[str, int], version: int) -> None:
        """Let these limits hold from the next admission, by name of scope in nano-USD, and the settings' for all
        other scopes. A cold ledger is left alone: its rebuild takes them over."""
        try:
            self._take_limits(keys=[WARM], args=[version, *(word for limit in limits.items() for word in limit)])
        except redis.RedisError as error:
            raise down(error) from None

    def _run(self, script: Any, keys: list[str], args: list[Any]) -> list[str]:
        """Run a script; once more if its reply was lost, which is safe since scripts are idempotent."""
        for last in (False, True):  # pragma: no branch  # the second time it ends here or raises
            try:
                reply: list[str] = script(keys=keys, args=args)
                break
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if last:
                    raise down(error) from None
            except redis.RedisError as error:
                raise down(error) from None
        if reply[0] == "cold":
            raise LedgerCold("the ledger's counters are not rebuilt from SQL yet")
        return reply


def _limits(scopes: list[Scope]) -> list[Any]:
    # without a limit the counters must stay exact all the same
    return [
        word
        for scope in scopes
        for word in (scope.name, MAX_NANO if scope.limit is None else scope.limit, scope.expires_at)
    ]


def _state(text: str) -> BreakerState | None:
    return BreakerState(text) if text else None


def _limit(limit: str | int | None) -> int | None:
    return None if limit is None or int(limit) == MAX_NANO else int(limit)


@once_per_environment
def ledger() -> Ledger:
    """The ledger of this process, connected at first use."""
    settings = read_settings(BudgetSettings)
    url = settings.redis_url
    return Ledger(connect(url), settings, read_settings(BreakerSettings), connect_loop(url))
