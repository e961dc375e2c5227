"""Put right by hand what an attempt cost, where the provider's own bill says it."""

from budget.figures import scope_keys_of
from budget.ledger import ledger
from budget.money import format_usd
from db.changes import record
from db.jobs import recount_cost
from db.models import Attempt, AttemptState, CostBasis, Job
from db.session import write


class StillCalling(ValueError):
    """An attempt that is not over cannot be corrected; it will be settled by itself."""


def correct(attempt_id: str, cost: int, who: str) -> bool:
    """Charge `cost` nano-USD for an attempt, in SQL and then in the ledger. False if the ledger does not know the
    reservation any more: then its counters take up the change when they are rebuilt.

    Raises `LedgerError` if the ledger is away: repeat the correction then."""
    with write() as session:
        attempt = session.get_one(Attempt, attempt_id)
        if attempt.state == AttemptState.CALLING:
            raise StillCalling(f"attempt {attempt_id} is under way; it can be corrected when it has ended")
        record(session, "cost", attempt_id, format_usd(attempt.cost_nano), format_usd(cost), who)
        attempt.cost_nano, attempt.cost_basis = cost, CostBasis.BY_HAND
        recount_cost(session, attempt.job_id)
        scope_keys = scope_keys_of(attempt, session.get_one(Job, attempt.job_id).kind)
    return ledger().correct(attempt_id, scope_keys, cost) != "absent"
