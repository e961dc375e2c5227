"""Compare what Redis holds with what SQL says."""

import time
from dataclasses import dataclass

import redis

from budget.connection import down
from budget.errors import LedgerCold
from budget.figures import figures
from budget.ledger import Ledger
from budget.rebuild import periods_of
from budget.scopes import OPEN, TAG, WARM, reservation_key
from db.session import snapshot

# Between its row in SQL and its counters in Redis an attempt is in only one of them, for milliseconds.
LOOKS = 5
PAUSE_S = 0.4


@dataclass(frozen=True, slots=True)
class Difference:
    """A key on which Redis and SQL do not agree; `field` is `spent` or `reserved` in nano-USD, or `state`."""

    key: str
    field: str
    redis: int | str | None
    sql: int | str | None


def differences(ledger: Ledger) -> list[Difference]:
    """All differences that last; none if nothing was lost or counted twice. Raises `LedgerCold` or `LedgerDown`."""
    lasting: dict[tuple[str, str], Difference] = {}
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE_S)
        try:
            found = {(one.key, one.field): one for one in _differences_now(ledger)}
        except redis.RedisError as error:
            raise down(error) from None
        lasting = {where: one for where, one in found.items() if not look or where in lasting}
        if not lasting:
            break
    return list(lasting.values())


def _differences_now(ledger: Ledger) -> list[Difference]:
    client = ledger.client
    now = periods_of(ledger)
    with snapshot() as session:
        wanted = figures(session, now)
    if not client.exists(WARM):
        raise LedgerCold("the ledger's counters are not rebuilt from SQL yet; a worker does so within seconds")
    # what SQL does not know of: users of today
    keys = {*wanted.counters, *client.scan_iter(f"{TAG}:user:{now.day}:*", count=1000)}
    ordered = sorted(keys)
    opened = [key for key, _ in client.zscan_iter(OPEN)]
    asked = sorted({*opened, *map(reservation_key, wanted.reservations)})
    with client.pipeline(transaction=True) as pipe:
        for key in ordered:
            pipe.hmget(key, ["spent", "reserved"])
        for key in asked:
            pipe.hget(key, "state")
        answers = pipe.execute()
    found: list[Difference] = []
    for key, amounts in zip(ordered, answers, strict=False):
        for field, amount, right in zip(("spent", "reserved"), amounts, wanted.counters.get(key, (0, 0)), strict=True):
            if int(amount or 0) != right:
                found.append(Difference(key, field, int(amount or 0), right))
    states = {reservation_key(attempt_id): held.state for attempt_id, held in wanted.reservations.items()}
    for key, state in zip(asked, answers[len(ordered) :], strict=True):
        # one that is over need not be known to Redis any more
        if state != states.get(key) and "open" in (state, states.get(key)):
            found.append(Difference(key, "state", state, states.get(key)))
    return found
