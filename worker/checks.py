"""What a worker checks before it starts, and what its log may say."""

import logging

from pydantic_settings import BaseSettings
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from budget.settings import BreakerSettings, BudgetSettings
from db.environment import SettingsError, read_settings
from db.session import checked_engine
from db.settings import DatabaseSettings
from selection.registry import load_registry
from selection.settings import SelectionSettings
from selection.strategies import find_strategy, load_strategies
from worker.settings import WatchSettings, WorkerSettings

logger = logging.getLogger(__name__)

DIALECTS = ("sqlite", "postgresql")

_checked: list[type[BaseSettings]] = [
    BudgetSettings, BreakerSettings, DatabaseSettings, SelectionSettings, WatchSettings, WorkerSettings,
]  # fmt: skip


def check_too(*settings: type[BaseSettings]) -> None:
    """Let workers refuse to start on these settings, too: those of layers above, which the worker does not know."""
    _checked.extend(one for one in settings if one not in _checked)


def check_settings() -> None:
    """Raise a `ValueError` whose message names the first variable that cannot be used, and why."""
    for settings in _checked:
        read_settings(settings)
    try:
        dialect = make_url(read_settings(DatabaseSettings).url).get_backend_name()
    except ArgumentError:
        dialect = "no URL"
    if dialect not in DIALECTS:
        raise SettingsError(f"DATABASE_URL: {dialect} is not supported; give sqlite:///file or postgresql://…")
    _check_selection(read_settings(SelectionSettings))


def check_database() -> None:
    """Raise `WrongSchema` if the database has another schema than this code. One that is away now is waited for."""
    try:
        checked_engine()
    except SQLAlchemyError as away:
        logger.warning("the database is away, and is looked at later: %s", type(away).__name__)


def _check_selection(settings: SelectionSettings) -> None:
    """The data files, and every name of a strategy or a model that the environment gives."""
    registry, strategies = load_registry(), load_strategies()
    named = [
        ("MODEL_SELECTION_STRATEGY", settings.model_selection_strategy),
        *(("MODEL_SPLIT_TEST", strategy) for strategy, _ in settings.model_split_test),
    ]
    for variable, strategy in named:
        try:
            find_strategy(strategy, strategies)
        except ValueError as error:
            raise SettingsError(f"{variable}: {error}") from None
    for variable, models in settings.named_models.items():
        for model in models:
            if registry.find(model) is None:
                known = ", ".join(sorted(registry.models))
                raise SettingsError(f"{variable}: {model[:60]!r} is not in the model registry; known models: {known}")


def _without_text(what: object) -> object:
    """Of an error the kinds, since that of a decoder holds the whole message; an unknown task's name may stay."""
    if not isinstance(what, Exception) or isinstance(what, KeyError):
        return what
    return " of ".join(type(one).__name__ for one in (what, *what.args) if isinstance(one, Exception))


def hide_arguments(record: logging.LogRecord) -> bool:
    """A logging filter: Celery quotes the arguments of messages that it cannot run, and a program that knows only
    the broker sends whole postings in them. And it quotes exceptions, which may quote them."""
    if "message body" in str(record.msg) and isinstance(record.args, tuple):
        first = tuple(_without_text(one) for one in record.args[:1]) if len(record.args) > 1 else ()
        record.args = (*first, *["(hidden)"] * (len(record.args) - len(first)))
    if isinstance(record.args, dict) and "traceback" in record.args:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "an exception"
        record.args = {**record.args, "exc": kind, "traceback": "", "args": "(hidden)", "kwargs": "(hidden)"}
    data = getattr(record, "data", None)
    if isinstance(data, dict):
        record.data = {**data, "args": "(hidden)", "kwargs": "(hidden)"}
    return True
