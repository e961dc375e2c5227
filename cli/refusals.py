"""The errors that people can mend, and their sentences."""

from typing import Any


def refusal(error: Exception) -> str | None:
    """One sentence for an error that people cause or can mend; None for a fault of the program."""
    from kombu.exceptions import OperationalError as BrokerError
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from budget.correct import StillCalling
    from budget.errors import LedgerError
    from budget.limits import LimitError
    from cli.inputs import InputError
    from cli.stack import StackError
    from db.environment import SettingsError
    from selection.data import DataError
    from selection.errors import CannotSelect
    from worker.again import NotOver
    from worker.errors import InvalidJob

    ours: tuple[Any, ...] = (StackError, InputError, SettingsError, DataError, CannotSelect, InvalidJob)
    if isinstance(error, (*ours, LedgerError, LimitError, NotOver, StillCalling)):
        return str(error)
    if isinstance(error, BrokerError):
        return "the broker cannot be reached; is the stack up, and CELERY_BROKER_URL or REDIS_URL right?"
    if isinstance(error, (OperationalError, ProgrammingError)):
        return "the database cannot be used; is the stack up, and DATABASE_URL right?"
    return None
