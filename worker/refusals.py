"""Spending stops just below a limit, so that it is a refused call which shows that a budget is used up."""

import logging

from budget.alerts import refused
from budget.errors import BudgetExceeded
from budget.settings import BudgetSettings
from db.alerts import raise_alert
from db.environment import read_settings
from db.once import once_per_environment
from db.writer import group_writer

MOST_REMEMBERED = 10_000

logger = logging.getLogger(__name__)


@once_per_environment
def _noted() -> set[tuple[str, ...]]:
    """The alerts that this process has written, so that a storm of refusals costs nothing."""
    return set()


def note_refusal(exceeded: BudgetExceeded, user_id: str | None) -> None:
    """Alert that a budget is used up, if that is why the call found no room. What goes wrong with it is no job's
    problem: the next refusal tries again."""
    try:
        notice = refused(exceeded, read_settings(BudgetSettings).budget_timezone, user_id)
        noted = _noted()
        if notice is None or notice.key in noted:
            return
        if len(noted) >= MOST_REMEMBERED:
            noted.clear()
        noted.add(notice.key)
        try:
            group_writer().commit(lambda session: raise_alert(session, notice))
        except BaseException:
            noted.discard(notice.key)
            raise
    except Exception as error:
        logger.warning("a used-up budget raised no alert: %s", type(error).__name__)
