"""Settings come from the environment. Each package declares its own class and reads it here."""

from functools import cache
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)


class SettingsError(ValueError):
    """A variable of the environment cannot be used; the message names it and says what would be right."""


@cache
def read_settings(settings: type[S]) -> S:
    """The settings of that class, read once per process; `SettingsError` names the first bad variable."""
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{variable}: {first['msg'].removeprefix('Value error, ')}") from None
