"""The ledger: reserve the worst case before a call, settle the actual cost after it. Counters live in Redis
and change only in the scripts beside this file; SQL is the record that they are rebuilt from."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.periods import Periods, periods_at
from budget.scopes import OPEN, WARM, Scope, global_scopes, reservation_key, scopes_of
from budget.settings import BudgetSettings
from db.environment import read_settings
from db.once import once_per_environment

logger = logging.getLogger(__name__)

SOCKET_TIMEOUT_S = 5
# A settled reservation answers replays for this long; an open one must outlive any call.
KEEP_RESERVATION_S = 2 * 86_400


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money held for one attempt, in nano-USD, and the scopes and periods that hold it."""

    attempt_id: str
    amount: int
    periods: Periods
    scope_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScopeUse:
    """How one scope stands, in nano-USD."""

    name: str
    limit: int | None
    spent: int
    reserved: int
    resets_at: int | None

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)


def connect(url: str) -> redis.Redis:
    """A connection pool whose commands are sent once: the scripts are idempotent, but who resends is us. Every new
    connection checks the server first (see `_greet`)."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_greet,
    )


def _greet(connection: Any) -> None:
    """Trust no counters of an earlier life: a server that was restarted from a dump, or a replica that took over,
    holds old ones. The marker bears the id of the server that was rebuilt; every restart breaks all connections,
    so nobody can use the counters without having passed here. And refuse a server that may evict them."""
    connection.on_connect()

    def ask(*command: str) -> Any:
        connection.send_command(*command)
        return connection.read_response()

    told = _info(ask("INFO", "server")) | _info(ask("INFO", "memory"))
    if told.get("maxmemory", "0") != "0" and told.get("maxmemory_policy") != "noeviction":
        raise redis.ResponseError(f"maxmemory-policy is {told.get('maxmemory_policy')}; the ledger needs noeviction")
    ask("EVAL", _FORGET_ANOTHERS, "1", WARM, told["run_id"])


# Drop the marker if it bears the id of another server, or of this one before it was restarted.
_FORGET_ANOTHERS = """
local marker = redis.call('GET', KEYS[1])
if marker and marker ~= ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def _info(text: Any) -> dict[str, str]:
    lines = (text.decode() if isinstance(text, bytes) else str(text)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class Ledger:
    """Admission to spend money. Every method raises `LedgerDown` when Redis gives no answer and `LedgerCold`
    when its counters cannot be trusted; either way nothing may be spent."""

    def __init__(self, client: redis.Redis, settings: BudgetSettings) -> None:
        self.client = client
        self.settings = settings
        self._reserve = client.register_script(_script("reserve"))
        self._settle = client.register_script(_script("settle"))

    def reserve(
        self, attempt_id: str, amount: int, *, job_id: str, user_id: str | None, job_cap: int | None, lease_s: int
    ) -> Reservation:
        """Hold `amount` nano-USD in every scope, or raise `BudgetExceeded` for the first that has no room.

        After `lease_s` the sweeper asks SQL what became of the attempt."""
        moment = time.time()
        for _ in range(2):
            periods = periods_at(moment, self.settings.budget_timezone)
            scopes = scopes_of(periods, self.settings, user_id=user_id, job_id=job_id, job_cap=job_cap)
            reply = self._run(
                self._reserve,
                [WARM, reservation_key(attempt_id), OPEN, *(scope.key for scope in scopes)],
                [amount, periods.day_start, periods.day_end, lease_s, KEEP_RESERVATION_S, *_limits(scopes)],
            )
            if reply[0] == "reserved":
                return Reservation(attempt_id, amount, periods, tuple(scope.key for scope in scopes))
            if reply[0] == "over":
                scope = scopes[int(reply[1]) - 1]
                raise BudgetExceeded(
                    scope.name, scope.limit or 0, int(reply[2]), int(reply[3]), amount, scope.resets_at
                )
            if reply[0] != "period":
                raise LedgerDown(f"the reservation {attempt_id} is over already")
            moment = float(reply[1])  # our clock and Redis' disagree about the day: Redis' counts
        raise LedgerDown("the clock of the ledger's Redis jumped over midnight twice")

    def settle(self, attempt_id: str, scope_keys: Sequence[str], actual: int) -> None:
        """Charge what the call cost, in nano-USD; 0 releases the reservation. Safe to repeat."""
        reply = self._run(
            self._settle,
            [WARM, reservation_key(attempt_id), OPEN, *scope_keys],
            [actual, KEEP_RESERVATION_S],
        )
        if reply[0] == "settled" and int(reply[1]) != actual:
            logger.error("attempt %s was settled at %s nano-USD already, not %d", attempt_id, reply[1], actual)

    def overdue(self) -> list[tuple[str, tuple[str, ...]]]:
        """Reservations whose lease has ended: (attempt id, scope keys)."""
        try:
            now = self.client.time()[0]
            keys: Any = self.client.zrange(OPEN, "-inf", now, byscore=True)
            scopes = [self.client.hget(key, "scopes") for key in keys]
        except redis.RedisError as error:
            raise _down(error) from None
        found = list(zip(keys, scopes, strict=True))
        if gone := [key for key, held in found if not held]:
            self.client.zrem(OPEN, *gone)
        return [(key.rsplit(":", 1)[1], tuple(str(held).split("\n"))) for key, held in found if held]

    def usage(self) -> list[ScopeUse]:
        """How the day and the month stand."""
        scopes = global_scopes(periods_at(time.time(), self.settings.budget_timezone), self.settings)
        try:
            held: Any = [self.client.hmget(scope.key, ["spent", "reserved"]) for scope in scopes]
            warm = self.client.exists(WARM)
        except redis.RedisError as error:
            raise _down(error) from None
        if not warm:
            raise LedgerCold("the ledger's counters are not rebuilt from SQL yet; a worker does so within seconds")
        return [
            ScopeUse(scope.name, scope.limit, int(spent or 0), int(reserved or 0), scope.resets_at)
            for scope, (spent, reserved) in zip(scopes, held, strict=True)
        ]

    def _run(self, script: Any, keys: list[str], args: list[Any]) -> list[str]:
        """Run a script; once more if its reply was lost, which is safe since scripts are idempotent."""
        for last in (False, True):
            try:
                reply: list[str] = script(keys=keys, args=args)
                break
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if last:
                    raise _down(error) from None
            except redis.RedisError as error:
                raise _down(error) from None
        if reply[0] == "cold":
            raise LedgerCold("the ledger's counters are not rebuilt from SQL yet")
        return reply


def _script(name: str) -> str:
    folder = resources.files("budget") / "scripts"
    return (folder / "checks.lua").read_text() + (folder / f"{name}.lua").read_text()


def _limits(scopes: list[Scope]) -> list[int]:
    return [number for scope in scopes for number in (-1 if scope.limit is None else scope.limit, scope.expires_at)]


def _down(error: redis.RedisError) -> LedgerDown:
    first_line = str(error).partition("\n")[0][:200] or type(error).__name__
    return LedgerDown(f"the ledger's Redis gives no usable answer: {first_line}")


@once_per_environment
def ledger() -> Ledger:
    """The ledger of this process, connected at first use."""
    settings = read_settings(BudgetSettings)
    return Ledger(connect(settings.redis_url), settings)
