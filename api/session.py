"""Sessions of browsers, which cannot send a bearer token by themselves. A session may look at what its token may read,
and do nothing. It is a signed cookie; the key is made anew by each process, so a restart signs everybody out."""

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

from api.access import Caller
from api.settings import Role, Token
from db.once import once_per_environment

COOKIE = "paymaster"
HOLDS_S = 12 * 3600


@once_per_environment
def _key() -> bytes:
    return secrets.token_bytes(32)


def _signature(name: str, until: str, token: Token) -> str:
    # with the token's digest: a token that was replaced under its name ends its sessions
    signed = b"\0".join((name.encode(), until.encode(), token.digest))
    return hmac.new(_key(), signed, hashlib.sha256).hexdigest()


def make_session(token: Token) -> str:
    """The cookie's value."""
    until = str(int(time.time()) + HOLDS_S)
    return f"{token.name}:{until}:{_signature(token.name, until, token)}"


def may_sign_in(token: Token) -> bool:
    """Pages are about all users, and show what is there to read."""
    return token.user_id is None and bool(token.roles & {Role.READ, Role.ADMIN})


def session_of(scope: Scope, headers: Headers, tokens: tuple[Token, ...]) -> Caller | None:
    """The caller by the cookie of a request that only reads, if it is one of ours, is not over, and its token is one
    still."""
    if scope["method"] not in ("GET", "HEAD") or "authorization" in headers:
        return None
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    name, until, signature = [*(found.value if found else "").split(":"), "", "", ""][:3]
    for token in tokens:
        if token.name == name and may_sign_in(token):
            good = hmac.compare_digest(_signature(name, until, token).encode(), signature.encode())
            # nobody but us has signed it, so it is a number
            if good and int(until) > time.time():
                return Caller(name, frozenset({Role.READ}), None)
    return None


def asks_for_a_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser asks, for something to show."""
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "")
