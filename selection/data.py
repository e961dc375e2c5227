"""How the data files of this package are read."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class DataError(ValueError):
    """A data file cannot be used; the message names file, entry and field."""


class Data(BaseModel):
    """An entry of a data file: what is not known is a fault, and nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


D = TypeVar("D", bound=Data)


def checked(data: type[D], value: Any, source: str, *where: str) -> D:
    """The entry that stands at `where` in the file `source`; `DataError` names the first field at fault."""
    try:
        return data.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, (*where, *fault["loc"])))
        raise DataError(f"{source}: {place}: {fault['msg'].removeprefix('Value error, ')}") from None
