"""What comes in: bodies as JSON, and cursors; and how answers go out."""

import base64
import json
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from api.problems import Problem


async def _body(request: Request) -> bytes:
    """The body, unread: decoding it is work for a thread."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "unsupported_media_type", "Content-Type: give application/json")
    return await request.body()


async def no_other_parameters(request: Request) -> None:
    """A mistyped filter must not bring everything, nor a parameter that is no use look as if it were one."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            takes = f"this address takes {', '.join(known)}" if known else "this address takes none"
            field = name if name.isidentifier() and len(name) <= 40 else None
            raise Problem(422, "parameter", f"a parameter in the address is not known; {takes}", field=field)
        if len(request.query_params.getlist(name)) > 1:
            raise Problem(422, "parameter", f"{name}: is there more than once", field=name)


Body = Annotated[bytes, Depends(_body)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must hold printable characters only")
    return text


Word = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Stricter than Python's own: every name once, no NaN, UTF-8 only."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise Problem(400, "bad_json", "the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise Problem(400, "bad_json", "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Problem(400, "bad_json", f"the body is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise Problem(400, "bad_json", "the body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise Problem(422, "invalid", "the body must be a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Problem(400, "bad_json", "an object in the body has the same name twice")
    return made


def _no_constant(_: str) -> NoReturn:
    raise Problem(400, "bad_json", "the body holds NaN or infinity, which are no JSON")


def pack(*place: Any) -> str:
    """A cursor: where the next page goes on."""
    return base64.urlsafe_b64encode(json.dumps(place, default=str).encode()).decode().rstrip("=")


def unpack(cursor: str, *kinds: type) -> list[Any]:
    """What `pack` was given; a 422 if it was not us who made the cursor."""
    try:
        place: Any = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=="))
    except (ValueError, RecursionError):
        place = None
    fits = isinstance(place, list) and [type(part) for part in place] == [*kinds]
    if not fits or not all(part.isprintable() for part in place if isinstance(part, str)):
        raise Problem(422, "parameter", "cursor: give `next` of the page before, unchanged", field="cursor")
    return list(place)


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """JSON; amounts as numbers in USD, times in ISO 8601."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(json.dumps(value, default=plain), status, named, "application/json")


def plain(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else str(value)
