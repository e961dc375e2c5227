"""Fill an empty ledger from SQL, by absolute values: what is settled, and what is still open.

The order of an attempt is reserve (Redis) -> record (SQL) -> call -> outcome (SQL) -> settle (Redis), and a
call is only made if its record was committed within `RECORD_DEADLINE_S` of its reservation. So a snapshot of
SQL taken that long after Redis was found empty holds every attempt that Redis has forgotten.
"""

import logging
import time
import uuid
from collections import defaultdict

import redis
from sqlalchemy import select

from budget.errors import LedgerDown
from budget.ledger import KEEP_RESERVATION_S, Ledger
from budget.periods import periods_at
from budget.scopes import OPEN, REBUILDING, WARM, keys_of, reservation_key, scopes_of
from db.models import Attempt, AttemptState, Job, JobState
from db.session import read

RECORD_DEADLINE_S = 5
REBUILD_LOCK_S = 120
# embed jobs may be of any size: see `JobKind.capped`
UNCAPPED_KIND = "embed"

logger = logging.getLogger(__name__)


def rebuild_if_cold(ledger: Ledger, *, wait_s: float = RECORD_DEADLINE_S + 1) -> bool:
    """Rebuild the counters if Redis has lost them; True if this call did it. `wait_s` may be 0 only while
    nothing runs. One process at a time: the others return at once."""
    token = uuid.uuid4().hex
    try:
        if ledger.client.exists(WARM) or not ledger.client.set(REBUILDING, token, nx=True, ex=REBUILD_LOCK_S):
            return False
        try:
            time.sleep(wait_s)
            attempts = _rebuild(ledger, token)
        finally:
            # whatever happened, the next one may try; an expired lock that is another's by now stays
            if ledger.client.get(REBUILDING) == token:
                ledger.client.delete(REBUILDING)
    except redis.RedisError as error:
        raise LedgerDown(f"the ledger's Redis gives no usable answer: {error}") from None
    if attempts is None:
        return False
    level = logging.WARNING if wait_s else logging.INFO
    logger.log(level, "ledger rebuilt from SQL: %d attempts of this month counted", attempts)
    return True


def _rebuild(ledger: Ledger, token: str) -> int | None:
    """Write everything in one transaction, unless the lock was lost or somebody was faster: then None."""
    with ledger.client.pipeline(transaction=True) as pipe:
        server: str = ledger.client.info("server")["run_id"]
        pipe.watch(REBUILDING, WARM)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if pipe.get(REBUILDING) != token or pipe.exists(WARM):
            return None
        pipe.multi()
        attempts = _write_counters(pipe, ledger)
        pipe.set(WARM, server)
        try:
            pipe.execute()
        except redis.WatchError:
            return None
    return attempts


def _write_counters(pipe: "redis.client.Pipeline", ledger: Ledger) -> int:
    zone = ledger.settings.budget_timezone
    now = periods_at(time.time(), zone)
    spent: dict[str, int] = defaultdict(int)
    reserved: dict[str, int] = defaultdict(int)
    open_: dict[str, tuple[int, tuple[str, ...]]] = {}
    with read() as session:
        rows = session.execute(
            select(
                Attempt.id, Attempt.job_id, Attempt.user_id, Attempt.budget_day, Attempt.budget_month,
                Attempt.state, Attempt.reserved_nano, Attempt.cost_nano, Job.kind, Job.state,
            )
            .join(Job, Job.id == Attempt.job_id)
            .where((Attempt.budget_month == now.month) | (Attempt.state == AttemptState.CALLING)
                   | Job.state.not_in([state for state in JobState if state.final]))
        ).all()  # fmt: skip
    for attempt_id, job_id, user_id, day, month, state, reservation, cost, kind, job_state in rows:
        # a job's own counter matters while it may still spend, and only where jobs of its kind have a cap
        live = kind != UNCAPPED_KIND and (not JobState(job_state).final or state == AttemptState.CALLING)
        keys = keys_of(day, month, user_id, job_id if live else None)
        if state == AttemptState.CALLING:
            open_[attempt_id] = (reservation, keys)
        for key in keys:
            spent[key] += cost
            reserved[key] += reservation if state == AttemptState.CALLING else 0
    keep = max(scope.expires_at for scope in scopes_of(now, ledger.settings, user_id="", job_id="", job_cap=0))
    pipe.delete(OPEN, *spent)
    for key, amount in spent.items():
        pipe.hset(key, mapping={"spent": amount, "reserved": reserved[key]})
        pipe.expireat(key, keep)
    for attempt_id, (amount, keys) in open_.items():
        key = reservation_key(attempt_id)
        pipe.hset(key, mapping={"amount": amount, "state": "open", "scopes": "\n".join(keys)})
        pipe.expire(key, KEEP_RESERVATION_S)
        # overdue at once: the sweeper asks SQL about it, and leaves it alone while its job has a live runner
        pipe.zadd(OPEN, {key: time.time()})
    return len(rows)
