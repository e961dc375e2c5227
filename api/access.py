"""Who may do what: bearer tokens with roles; without any, only programs of this machine."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from api.problems import Problem
from api.settings import ApiSettings, Role, Token
from db.environment import SettingsError

PREFIX = "pm_"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request. `user_id` is the only user whose jobs exist for them; None: all users' do."""

    name: str
    roles: frozenset[Role]
    user_id: str | None

    @property
    def who(self) -> str:
        """For the record of changes."""
        return f"api:{self.name}"

    def only(self, user_id: str | None) -> str | None:
        """The user that a question is about; a 403 if the caller may not ask about that one."""
        if self.user_id is not None and user_id not in (None, self.user_id):
            raise Problem(403, "forbidden", "user_id: the token is bound to another user", field="user_id")
        return self.user_id or user_id

    def may(self, role: Role) -> bool:
        return role in self.roles or Role.ADMIN in self.roles


THIS_MACHINE = Caller("local", frozenset({Role.ADMIN}), None)


def make_token(name: str, roles: list[Role], user_id: str | None) -> tuple[str, str]:
    """A new random token, and what of it goes into `API_TOKENS`."""
    token = PREFIX + secrets.token_urlsafe(32)
    entry = ":".join([name, "+".join(roles), _digest(token).hex(), *([user_id] if user_id else [])])
    ApiSettings(api_tokens=entry)
    return token, entry


def _digest(token: str) -> bytes:
    # a long random token needs no slow hash: there is nothing to guess
    return hashlib.sha256(token.encode(errors="replace")).digest()


def caller_of(authorization: str | None, tokens: tuple[Token, ...]) -> Caller:
    """The caller by the header `Authorization`; raises a 401. The time taken does not tell which token was close."""
    scheme, _, given = (authorization or "").partition(" ")
    digest = _digest(given.strip())
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest) and scheme.lower() == "bearer":
            found = token
    if found is None:
        raise Problem(
            401, "unauthorized", "Authorization: give a bearer token that API_TOKENS knows",
            headers={"WWW-Authenticate": 'Bearer realm="paymaster"'},
        )  # fmt: skip
    return Caller(found.name, found.roles, found.user_id)


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, settings: ApiSettings) -> None:
    """Raise a `SettingsError` if everybody could use the API there."""
    if not settings.api_tokens and not is_loopback(host):
        raise SettingsError(
            f"API_TOKENS: is empty, so anybody who reaches {host} could spend money; `paymaster api-token` makes a "
            "token, or listen on 127.0.0.1"
        )


def needs(*roles: Role, unbound: bool = False) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who must have one of these roles; with `unbound` not for one user only."""

    async def check(request: Request) -> Caller:
        caller: Caller = request.scope["caller"]
        if not any(caller.may(role) for role in roles):
            raise Problem(403, "forbidden", f"the token {caller.name} lacks the role {' or '.join(roles)}")
        if unbound and caller.user_id is not None:
            raise Problem(403, "forbidden", f"the token {caller.name} is bound to one user; this is about all of them")
        return caller

    return check
