"""Fill an empty ledger from SQL, by absolute values: what is settled, and what is still open.

The order of an attempt is reserve (Redis) -> record (SQL) -> call -> outcome (SQL) -> settle (Redis), and a
call is only made if its record was committed within `RECORD_DEADLINE_S` of its reservation. So a snapshot of
SQL taken that long after Redis was found empty holds every attempt that Redis has forgotten.
"""

import logging
import time
import uuid
from typing import Any

import redis

from budget.connection import down
from budget.figures import Figures, Held, figures
from budget.ledger import KEEP_CLOSED_S, Ledger
from budget.limits import limits_in_force
from budget.periods import Periods, periods_at
from budget.scopes import (
    KEEP_AFTER_PERIOD_S,
    KEEP_JOB_S,
    LEDGER_WROTE,
    OPEN,
    REBUILDING,
    WARM,
    reservation_key,
)
from db.session import snapshot

RECORD_DEADLINE_S = 5
REBUILD_LOCK_S = 120

logger = logging.getLogger(__name__)


def rebuild(ledger: Ledger) -> None:
    """Stop all admissions, and rebuild the counters; returns when that is done, here or by a worker."""
    try:
        ledger.client.delete(WARM)
        while not ledger.client.exists(WARM):
            if not rebuild_if_cold(ledger):
                time.sleep(0.2)
    except redis.RedisError as error:
        raise down(error) from None


def rebuild_if_cold(ledger: Ledger, *, wait_s: float = RECORD_DEADLINE_S + 1) -> bool:
    """Rebuild the counters if Redis has lost them; True if this call did it. `wait_s` may be 0 only while
    nothing runs. One process at a time: the others return at once."""
    token = uuid.uuid4().hex
    try:
        if ledger.client.exists(WARM) or not ledger.client.set(REBUILDING, token, nx=True, ex=REBUILD_LOCK_S):
            return False
        try:
            time.sleep(wait_s)
            written = _rebuild(ledger, token)
        finally:
            # whatever happened, the next one may try; an expired lock that is another's by now stays
            if ledger.client.get(REBUILDING) == token:
                ledger.client.delete(REBUILDING)
    except redis.RedisError as error:
        raise down(error) from None
    if written is None:
        return False
    level = logging.WARNING if wait_s else logging.INFO
    counters, held = len(written.counters), len(written.reservations)
    logger.log(level, "ledger rebuilt from SQL: %d counters, %d reservations", counters, held)
    return True


def periods_of(ledger: Ledger) -> Periods:
    """The current periods by the clock of the ledger's Redis, which is the one that counts."""
    seconds, microseconds = ledger.client.time()
    return periods_at(seconds + microseconds / 1e6, ledger.settings.budget_timezone)


def _rebuild(ledger: Ledger, token: str) -> Figures | None:
    """Write everything in one transaction, unless the lock was lost or somebody was faster: then None."""
    with ledger.client.pipeline(transaction=True) as pipe:
        server: str = ledger.client.info("server")["run_id"]
        # what is left of an earlier life; while the ledger is cold, nobody adds to it
        old = [key for pattern in LEDGER_WROTE for key in ledger.client.scan_iter(pattern, count=1000)]
        pipe.watch(REBUILDING, WARM)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if pipe.get(REBUILDING) != token or pipe.exists(WARM):
            return None
        now = periods_of(ledger)
        with snapshot() as session:
            found = figures(session, now)
            limits, version = limits_in_force(session)
        pipe.multi()
        for start in range(0, len(old), 1000):
            pipe.unlink(*old[start : start + 1000])
        _write(pipe, found, now)
        marker: dict[Any, Any] = {"server": server, "zone": str(ledger.settings.budget_timezone), "version": version}
        pipe.hset(WARM, mapping=marker | limits)
        try:
            pipe.execute()
        except redis.WatchError:
            return None
    return found


def _write(pipe: "redis.client.Pipeline", found: Figures, now: Periods) -> None:
    # longer than any of them needs; what is written anew gets its own time
    keep = now.month_end + max(KEEP_AFTER_PERIOD_S, KEEP_JOB_S)
    for key, (spent, reserved) in found.counters.items():
        pipe.hset(key, mapping={"spent": spent, "reserved": reserved})
        pipe.expireat(key, keep)
    # overdue at once: the sweeper asks SQL about each, and leaves calls alone that are under way
    pipe.delete(OPEN)
    for attempt_id, held in found.reservations.items():
        key = reservation_key(attempt_id)
        pipe.hset(key, mapping=_fields(held))
        pipe.expireat(key, keep) if held.state == "open" else pipe.expire(key, KEEP_CLOSED_S)
        pipe.zadd(OPEN, {key: 0})


def _fields(held: Held) -> dict[Any, Any]:
    fields = {"amount": held.amount, "state": held.state, "scopes": "\n".join(held.scope_keys)}
    return fields if held.state == "open" else fields | {"charged": held.charged}
