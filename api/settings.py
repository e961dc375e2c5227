"""What the environment says about the HTTP API."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

LONGEST_NAME = 40
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_USER = re.compile(r"[^\s,]{1,64}")


class Role(StrEnum):
    """What a token may do."""

    SUBMIT = "submit"  # submit, see and cancel jobs
    READ = "read"  # see everything
    ADMIN = "admin"  # everything


@dataclass(frozen=True, slots=True)
class Token:
    """One bearer token: its name, roles and SHA-256, and the user whose jobs alone it may see and submit."""

    name: str
    roles: frozenset[Role]
    digest: bytes
    user_id: str | None


def _tokens(value: Any) -> tuple[Token, ...]:
    """A `ValueError` says which of the tokens is at fault by its place, since its text may be a secret."""
    if not isinstance(value, str):
        return tuple(value)
    return tuple(
        _token(place, text) for place, text in enumerate(re.split(r"[,\s]+", value.strip(", \t\n")), 1) if text
    )


def _token(place: int, text: str) -> Token:
    name, roles, digest, user = [*text.split(":", 3), "", "", ""][:4]
    if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest) or (user and not _USER.fullmatch(user)):
        raise ValueError(
            f"number {place} is no token; give name:roles:sha256 or name:roles:sha256:user_id, as `paymaster "
            "api-token` prints it"
        )
    try:
        return Token(name, frozenset(map(Role, roles.split("+"))), bytes.fromhex(digest), user or None)
    except ValueError:
        raise ValueError(f"number {place} has an unknown role; known: {', '.join(Role)}, joined by +") from None


class ApiSettings(BaseSettings):
    """The HTTP API, from the environment."""

    api_tokens: Annotated[tuple[Token, ...], NoDecode, BeforeValidator(_tokens)] = Field(
        (),
        repr=False,
        description="Who may use the API: `name:roles:sha256` or `name:roles:sha256:user_id`, separated by commas; "
        "without any it serves this machine only.",
    )
    api_max_body_bytes: int = Field(8 << 20, ge=1024, le=256 << 20, description="The largest body of a request.")
    api_max_batch: int = Field(100, ge=1, le=1000, description="The most jobs of one batch.")
    flower_url: str | None = Field(
        None, pattern=r"^https?://[^\s\"'<>@]+$", description="Where people reach Flower; the page links to it."
    )
    api_requests_per_minute: int = Field(6000, ge=0, description="Requests of one token in a minute; 0: no limit.")
