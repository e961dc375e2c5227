"""Settings come from the environment. Each package declares its own class and reads it here."""

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from db.once import once_per_environment

S = TypeVar("S", bound=BaseSettings)


class SettingsError(ValueError):
    """A variable of the environment cannot be used; the message names it and says what would be right."""


@once_per_environment
def _read() -> dict[type[BaseSettings], Any]:
    return {}


def read_settings(settings: type[S]) -> S:
    """The settings of that class, read once per process; `SettingsError` names the first bad variable."""
    found = _read()
    if settings not in found:
        found[settings] = _from_environment(settings)
    made: S = found[settings]
    return made


def _from_environment(settings: type[S]) -> S:
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{variable}: {first['msg'].removeprefix('Value error, ')}") from None
