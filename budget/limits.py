"""Limits that were set while the system runs. SQL keeps them and says who set them; Redis has them beside the
counters, so that they hold from the next admission; what was never set, or was set back, is the environment's."""

from sqlalchemy.orm import Session

from budget.ledger import ledger
from budget.money import MAX_NANO
from budget.scopes import LIMITED
from budget.settings import parse_limit
from db.changes import in_force, record, version
from db.session import write

DEFAULT = "default"


class LimitError(ValueError):
    """The limit cannot be set; the message names the field and says what would be right."""


def limits_in_force(session: Session) -> tuple[dict[str, int], int]:
    """The limits that were set by hand, by name of scope in nano-USD, and their version."""
    limits = {name: parse_limit(value) for name, value in in_force(session, "limit").items()}
    return {name: MAX_NANO if limit is None else limit for name, limit in limits.items()}, version(session, "limit")


def set_limit(scope: str, limit: str, who: str) -> None:
    """Set the limit of a scope in USD, or back to the environment's by `default`. If the ledger is away, which raises
    `LedgerDown`, the limit is noted all the same and the sweeper brings it there."""
    if scope not in LIMITED:
        raise LimitError(f"scope: {scope[:40]!r} has no limit to set; known: {', '.join(LIMITED)}")
    after = None if limit.strip().lower() == DEFAULT else limit.strip()
    if after is not None:
        try:
            parse_limit(after)
        except ValueError as error:
            raise LimitError(f"limit: {error}; '{DEFAULT}' sets it back to the environment's") from None
    with write() as session:
        record(session, "limit", scope, in_force(session, "limit").get(scope), after, who)
        session.flush()
        limits = limits_in_force(session)
    ledger().take_limits(*limits)
