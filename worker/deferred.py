"""Jobs that wait, for a budget or for a moment: which of them may go on."""

from collections import defaultdict
from collections.abc import Iterator

from budget.ledger import Ledger, ScopeUse
from db.jobs import Parked, parked
from db.models import utc_now
from db.session import read

PAGE = 500


def with_room(ledger: Ledger) -> list[str]:
    """The ids of deferred jobs that may go on: the budgets have room for them again, since one was reset or raised, or
    got back what was reserved; or their time has come. First come, first served: the first job that does not fit ends
    it, unless only its user's own budget is full, or it would never fit. One that would never fit goes on when its time
    has come, to be told so."""
    found: list[str] = []
    everybody = ledger.usage()
    users: dict[str, ScopeUse] = {}
    promised: dict[str | None, int] = defaultdict(int)  # by user; None: to all together
    full: set[str] = set()
    for job in _waiting(ledger, users, full):
        own = [users[job.user_id]] if job.user_id is not None else []
        if job.needed_nano is None or _never_fits(job.needed_nano, [*everybody, *own]):
            if job.due_at is not None and job.due_at <= utc_now():
                found.append(job.id)
        elif not _fits(job.needed_nano + promised[None], everybody):
            break
        elif job.user_id is not None and not _fits(job.needed_nano + promised[job.user_id], own):
            full.add(job.user_id)
        else:
            found.append(job.id)
            for to in {None, job.user_id}:
                promised[to] += job.needed_nano
    return found


def _waiting(ledger: Ledger, users: dict[str, ScopeUse], full: set[str]) -> Iterator[Parked]:
    """Deferred jobs in their order, those of users who are `full` left out; `users` learns how their budgets stand."""
    page: list[Parked] = []
    while True:
        with read() as session:
            page = parked(session, page[-1] if page else None, full, PAGE)
        if new := {job.user_id for job in page if job.user_id is not None} - users.keys():
            users |= ledger.usage_of_users(sorted(new))
        yield from (job for job in page if job.user_id not in full)
        if len(page) < PAGE:
            return


def _fits(needed: int, uses: list[ScopeUse]) -> bool:
    return all(use.left is None or needed <= use.left for use in uses)


def _never_fits(needed: int, uses: list[ScopeUse]) -> bool:
    # a limit of 0 is a stop for everybody, and no size
    return any(use.limit is not None and needed > use.limit > 0 for use in uses)
