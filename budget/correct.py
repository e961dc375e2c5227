"""Put right by hand what an attempt cost, where the provider's own bill says it."""

from budget.figures import scope_keys_of
from budget.ledger import ledger
from budget.money import format_usd
from budget.rebuild import rebuild
from db.changes import record
from db.jobs import recount_cost
from db.models import Attempt, AttemptState, CostBasis, Job, utc_now
from db.session import read, write


class StillCalling(ValueError):
    """An attempt that is not over cannot be corrected; it will be settled by itself."""


def correct(attempt_id: str, cost: int, who: str) -> None:
    """Charge `cost` nano-USD for an attempt, in SQL and then in the ledger. If Redis does not know the reservation any
    more, and its month is not over, the counters are rebuilt, which stops admissions for some seconds.

    Raises `LedgerError` if the ledger is away: repeat the correction then."""
    with write() as session:
        attempt = session.get_one(Attempt, attempt_id, with_for_update=True)
        if attempt.state == AttemptState.CALLING:
            raise StillCalling(f"attempt {attempt_id} is under way; it can be corrected when it has ended")
        record(session, "cost", attempt_id, format_usd(attempt.cost_nano), format_usd(cost), who)
        attempt.cost_nano, attempt.cost_basis = cost, CostBasis.BY_HAND
        # so that its day is rolled up again
        attempt.settled_at = utc_now()
        recount_cost(session, attempt.job_id)
    with read() as session:
        # as it stands by now: somebody else may have corrected it, too
        attempt = session.get_one(Attempt, attempt_id)
        scope_keys = scope_keys_of(attempt, session.get_one(Job, attempt.job_id).kind)
    state = ledger().correct(attempt_id, scope_keys, attempt.cost_nano)
    if state == "absent" and attempt.budget_month >= ledger().periods().month:
        rebuild(ledger())
