"""Compare what Redis holds with what SQL says, while both are at work.

SQL is read first, then Redis, each at one moment. An attempt that is further in one of them than in the other (its
reservation open and its row not written yet, or its outcome in SQL and its reservation not ended yet) explains what it
makes differ; what remains, and is there at a second look, is a difference.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from budget.connection import Script, down
from budget.figures import figures
from budget.ledger import Ledger
from budget.scopes import OPEN, TAG, WARM, day_key, month_key, reservation_key
from db.models import Attempt, AttemptState
from db.session import snapshot

PAUSE_S = 1.5

FIELDS = ("spent", "reserved")


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter, or the reservation of an attempt, on which Redis and SQL do not agree; `field` is `spent` or
    `reserved`, amounts in nano-USD. A counter's are without what single attempts explain."""

    key: str
    field: str
    redis: int
    sql: int

    @property
    def gap(self) -> int:
        return self.redis - self.sql


def differences(ledger: Ledger) -> list[Difference]:
    """All differences that last; none if nothing was lost or counted twice. Raises `LedgerCold` or `LedgerDown`."""
    try:
        first = _look(ledger)
        if not first:
            return []
        time.sleep(PAUSE_S)
        second = _look(ledger)
    except redis.RedisError as error:
        raise down(error) from None
    return [one for where, one in second.items() if where in first and one.gap == first[where].gap]


def _look(ledger: Ledger) -> dict[tuple[str, str], Difference]:
    now = ledger.periods()
    ledger.usage()  # raises what stands against any comparison
    with snapshot() as session:
        wanted = figures(session, now)
        # of these SQL need not know: nothing was spent there
        users = set(ledger.client.scan_iter(f"{TAG}:user:{now.day}:*", count=1000))
        keys = sorted({day_key(now.day), month_key(now.month), *wanted.counters, *users})
        known = [reservation_key(attempt_id) for attempt_id in wanted.reservations]
        look: Any = Script(ledger.client, "look")
        _, counters, reservations = look([WARM, OPEN, *keys, *known], [len(keys)])
        rows = _rows(session, [key.rpartition(":")[2] for key, *_ in reservations])
    found: dict[tuple[str, str], Difference] = {}
    explained: dict[tuple[str, str], int] = defaultdict(int)
    for key, state, amount, charged, scopes in reservations:
        if not state:
            continue  # over, and long ago
        in_redis = (0, int(amount)) if state == "open" else (int(charged), 0)
        in_sql = rows.get(key.rpartition(":")[2], (0, 0))
        for field, held, right in zip(FIELDS, in_redis, in_sql, strict=True):
            if held != right:
                found[key, field] = Difference(key, field, held, right)
            for scope in scopes.split("\n"):
                explained[scope, field] += held - right
    for key, amounts in zip(keys, counters, strict=True):
        for field, amount, right in zip(FIELDS, amounts, wanted.counters.get(key, (0, 0)), strict=True):
            held = int(amount or 0) - explained[key, field]
            if held != right:
                found[key, field] = Difference(key, field, held, right)
    return found


def _rows(session: Session, attempt_ids: list[str]) -> dict[str, tuple[int, int]]:
    """(spent, reserved) of attempts by SQL."""
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(attempt_ids), 1000):
        some = Attempt.id.in_(attempt_ids[start : start + 1000])
        for attempt in session.scalars(select(Attempt).where(some)):
            calling = attempt.state == AttemptState.CALLING
            found[attempt.id] = (0, attempt.reserved_nano) if calling else (attempt.cost_nano, 0)
    return found
