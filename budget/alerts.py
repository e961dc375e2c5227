"""When a budget raises an alert, and what that says. Used is what is spent: reservations come and go."""

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal

from budget.errors import BudgetExceeded
from budget.ledger import ScopeUse
from budget.money import format_usd
from budget.periods import periods_at
from budget.scopes import LIMITED
from db.alerts import AlertKind, Notice

USED_UP = "1"


def threshold_text(share: Decimal) -> str:
    """The one way to write a threshold: it is part of which alert this is."""
    return f"{share.normalize():f}"


def crossed(use: ScopeUse, thresholds: Sequence[Decimal], zone: tzinfo, user_id: str | None = None) -> list[Notice]:
    """The alerts of a scope that has spent a share of its limit or more. A limit of 0 is a stop that somebody meant,
    and no alert."""
    if not use.limit or use.resets_at is None:
        return []
    notices = []
    for share in thresholds:
        if use.spent >= use.limit * share:
            state = "is used up" if share == 1 else f"is {100 * use.spent // use.limit} % used"
            text = _sentence(use.name, user_id, state, use.spent, use.limit, use.resets_at)
            notices.append(_notice(use.name, user_id, threshold_text(share), use.resets_at, zone, text))
    return notices


def refused(exceeded: BudgetExceeded, zone: tzinfo, user_id: str | None) -> Notice | None:
    """The alert that a budget is used up, where a call found no room: spending stops just below a limit. None if the
    call never fits, or will once others have ended."""
    scope = exceeded.scope
    too_much = exceeded.spent + exceeded.needed > exceeded.limit > 0 and not exceeded.never_fits
    if scope not in LIMITED or not too_much or exceeded.resets_at is None:
        return None
    state = f"is used up, a call of up to {format_usd(exceeded.needed)} found no room"
    text = _sentence(scope, user_id, state, exceeded.spent, exceeded.limit, exceeded.resets_at)
    return _notice(scope, user_id, USED_UP, exceeded.resets_at, zone, text)


def _notice(scope: str, user_id: str | None, threshold: str, resets_at: int, zone: tzinfo, message: str) -> Notice:
    # the last second of the period that the counter belongs to, whatever our own clock says by now
    periods = periods_at(resets_at - 1, zone)
    subject = f"user:{user_id}" if scope == "user" else scope
    period = periods.month if scope == "monthly" else periods.day
    return Notice(AlertKind.BUDGET, subject, period, threshold, message)


def _sentence(scope: str, user_id: str | None, state: str, spent: int, limit: int, resets_at: int) -> str:
    whose = f"The daily budget of user {user_id}" if scope == "user" else f"The {scope} budget"
    show = f" --user {user_id}" if scope == "user" else ""
    return (
        f"{whose} {state}: {format_usd(spent)} of {format_usd(limit)} is spent. It starts anew at "
        f"{datetime.fromtimestamp(resets_at, UTC):%Y-%m-%d %H:%M} UTC. Jobs that find no room take a cheaper model, "
        f"fail or wait, as their on_budget says. `paymaster budget{show}` shows how it stands, `paymaster report` "
        f"what the money went to, `paymaster budget set {scope} USD` changes the limit."
    )
