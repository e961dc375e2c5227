"""Jobs that wait, for a budget or for a moment: which of them may go on."""

from collections import defaultdict
from collections.abc import Iterable

from budget.ledger import Ledger, ScopeUse
from db.models import Job, utc_now


def with_room(ledger: Ledger, waiting: Iterable[Job]) -> list[Job]:
    """Those of `waiting` that the budgets have room for again: since one was reset or raised, or got back what was
    reserved. First come, first served: the first job that does not fit ends it, unless only its user's own budget is
    full, or it would never fit. One that would never fit goes on when its time has come, to be told so."""
    found: list[Job] = []
    uses: dict[str | None, list[ScopeUse]] = {}
    promised: dict[tuple[str, str | None], int] = defaultdict(int)
    for job in waiting:
        if job.needed_nano is None:
            # it waits for a moment, not for money
            if job.due_at and job.due_at <= utc_now():
                found.append(job)
            continue
        if job.user_id not in uses:
            uses[job.user_id] = ledger.usage(user_id=job.user_id)
        needed = job.needed_nano
        owners = {(use.name, job.user_id if use.name == "user" else None): use for use in uses[job.user_id]}
        if any(use.limit is not None and needed > use.limit for use in owners.values()):
            if job.due_at and job.due_at <= utc_now():
                found.append(job)
            continue
        full = [of for of, use in owners.items() if use.left is not None and promised[of] + needed > use.left]
        if full and all(name == "user" for name, _ in full):
            continue
        if full:
            break
        for of in owners:
            promised[of] += needed
        found.append(job)
    return found
