"""What can be said of a job's budget before it is queued: only what is certain. A worker asks the ledger itself."""

from collections.abc import Sequence

from budget.errors import BudgetExceeded
from budget.ledger import ScopeUse
from selection.registry import load_registry
from worker.submit import Order


def least_cost(order: Order) -> int:
    """No call of the job reserves less, in nano-USD: the cheapest model that it may run on, with a token a word."""
    facts = order.kind.facts(order.payload)
    providers = load_registry()
    return min(
        model.rates.worst_case(
            # up to where words are counted, and no tokenizer puts two into one token
            providers.provider_of(model).most_input(max(1, facts.words)),
            min(facts.answer_tokens, model.max_output),
        )
        for model in order.selection.candidates
    )


def foresee(order: Order, uses: Sequence[ScopeUse]) -> BudgetExceeded | None:
    """The scope that the job cannot fit in before it starts anew, None if there may be room. What is only reserved may
    be given back, so it stands in nobody's way here; a job that may wait for room is never refused."""
    if order.payload.on_budget == "defer":
        return None
    needed = least_cost(order)
    cap = order.selection.strategy.job_cap if order.kind.capped else None
    caps = [] if cap is None else [ScopeUse("job", cap, 0, 0, None)]
    for use in (*uses, *caps):
        if use.limit is not None and use.spent + needed > use.limit:
            return BudgetExceeded(use.name, use.limit, use.spent, use.reserved, needed, use.resets_at)
    return None
