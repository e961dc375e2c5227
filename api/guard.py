"""What every request passes before a route sees it, and every answer on its way out: plain ASGI, on the event loop."""

import asyncio
import logging
import math
import re
import time
import traceback
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import redis.asyncio
from redis.exceptions import RedisError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import LOCAL_NAMES, THIS_MACHINE, Caller, caller_of, is_loopback
from api.pause import Pause
from api.problems import Problem, away
from api.session import asks_for_a_page, session_of
from api.settings import ApiSettings
from budget.scopes import TAG
from budget.settings import BudgetSettings
from db.environment import read_settings

OPEN_PATHS = ("/healthz", "/readyz", "/api/v1/openapi.json", "/sign-in/", "/sign-out/")
# a proxy before us might take another one of them for the real one
ONCE = ("host", "authorization", "content-length", "content-type", "idempotency-key", "x-llm-model", "origin")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[^\[\]:]+)(?::[0-9]*)?")
BODY_WITHIN_S = 30
# of all requests that are under way
BODIES_BYTES = 256 << 20
DISCARD_WITHIN_S = 5
DISCARDED_BYTES = 64 << 20
QUICK_S = 0.25

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


class Guard:
    """Refuses requests that nobody may make, that are too large or too many; adds the headers that browsers obey."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, rate: "Rate") -> None:
        self.app = app
        self.settings = settings
        self._rate = rate
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        incoming = Incoming(receive, self.settings.api_max_body_bytes, self._bodies)

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_framing(headers)
            scope["caller"] = await self._admit(scope, headers)
            await self.app(as_routed(scope), incoming, send_safely)
        except Elsewhere as elsewhere:
            await RedirectResponse(elsewhere.address, 303)(scope, receive, send_safely)
        except (Problem, Cut) as error:
            refused = error.problem if isinstance(error, Cut) else error
            refused.headers.setdefault("Connection", "close")
            await incoming.discard()
            await refused.response()(scope, receive, send_safely)
        except Exception as error:
            # of an error that nobody foresaw the log gets the places: the message may quote a posting
            places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
            logger.error("unforeseen %s at\n%s", type(error).__name__, places)
            if not started:
                sentence = f"internal error ({type(error).__name__}); the API's log says where"
                await Problem(500, "internal", sentence).response()(scope, receive, send_safely)
        finally:
            incoming.forget()

    def _check_framing(self, headers: Headers) -> None:
        for name in ONCE:
            if len(headers.getlist(name)) > 1:
                raise Problem(400, "bad_request", f"the header {name} is there more than once")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Problem(400, "bad_request", "Content-Length and Transfer-Encoding must not be there together")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(
                415, "unsupported_media_type", "Content-Encoding: bodies are taken as they are only, not packed"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Problem(400, "bad_request", "Content-Length is no number")
        if int(length) > self.settings.api_max_body_bytes:
            raise too_large(self.settings.api_max_body_bytes)

    async def _admit(self, scope: Scope, headers: Headers) -> Caller:
        if not self.settings.api_tokens:
            self._only_this_machine(scope, headers)
            return THIS_MACHINE
        if scope["path"] in OPEN_PATHS:
            return Caller("anybody", frozenset(), None)
        caller = session_of(scope, headers, self.settings.api_tokens)
        if caller is None:
            if asks_for_a_page(scope, headers) and "authorization" not in headers:
                raise Elsewhere(f"/sign-in/?{urlencode({'to': scope['path']})}")
            caller = caller_of(headers.get("authorization"), self.settings.api_tokens)
        await self._rate.count(caller)
        return caller

    @staticmethod
    def _only_this_machine(scope: Scope, headers: Headers) -> None:
        """Without tokens no other machine may ask, nor a web page: not by a name that it lets point here, and not
        across sites."""
        client = scope.get("client")
        if client and not is_loopback(client[0]):
            raise Problem(403, "forbidden", "API_TOKENS is empty, so only programs of this machine may ask")
        host = headers.get("host", "")
        named = _HOST.fullmatch(host.lower())
        if named is None or named[1].strip("[]") not in LOCAL_NAMES:
            raise Problem(403, "forbidden", f"Host: without API_TOKENS it must be one of {', '.join(LOCAL_NAMES)}")
        origin = headers.get("origin")
        # a link to a page may be followed from anywhere: who made it sees nothing of the answer
        followed = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        if (headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed) or (
            origin is not None and origin not in (f"http://{host}", f"https://{host}")
        ):
            raise Problem(403, "forbidden", "the request comes from another site's page")


class Elsewhere(Exception):
    """A browser that is not signed in is sent to where it can be."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address


def as_routed(scope: Scope) -> Scope:
    """The request as the routes know it: paths of the API end in a slash, others do not, and HEAD is GET, whose body
    the server leaves out."""
    path = scope["path"]
    if path.startswith("/api/") and path not in OPEN_PATHS:
        path = path if path.endswith("/") else f"{path}/"
    elif path.removesuffix("/") in OPEN_PATHS:
        path = path.removesuffix("/")
    elif f"{path}/" in OPEN_PATHS:
        path = f"{path}/"
    return {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}


class Cut(Exception):
    """The body is cut off. No `Problem`, so that no route answers it: what still comes must be discarded first."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class Bodies:
    """What all requests that are under way hold in memory."""

    bytes = 0


class Incoming:
    """The body of a request, as far as it may go; what comes too slowly is given up."""

    def __init__(self, receive: Receive, most_bytes: int, bodies: Bodies) -> None:
        self._receive = receive
        self._bodies = bodies
        self._most_bytes = most_bytes
        self._bytes = 0
        self._deadline = time.monotonic() + BODY_WITHIN_S
        self._complete = False
        self._held = 0
        self._discards = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()  # waits for the client to go away
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            raise Cut(Problem(408, "timeout", f"the body did not arrive within {BODY_WITHIN_S} s")) from None
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._most_bytes:
            raise Cut(too_large(self._most_bytes))
        if not self._discards:
            self._held += len(message.get("body", b""))
            self._bodies.bytes += len(message.get("body", b""))
            if self._bodies.bytes > BODIES_BYTES:
                raise Cut(away("nothing was done: too many large requests come at once"))
        return message

    def forget(self) -> None:
        """The request is over."""
        self._bodies.bytes -= self._held

    async def discard(self) -> None:
        """Take what still comes of a body that is refused, within bounds: a client that is still sending when the
        connection is closed may never see why."""
        self._discards = True
        self._most_bytes = DISCARDED_BYTES
        self._deadline = min(self._deadline, time.monotonic() + DISCARD_WITHIN_S)
        with suppress(Cut):
            while not self._complete:
                await self()


def too_large(most_bytes: int) -> Problem:
    """The body is."""
    return Problem(413, "too_large", f"the body has more than {most_bytes} bytes (API_MAX_BODY_BYTES)")


class Rate:
    """Counts requests by token and minute in Redis, for all API processes. While Redis is away nobody is refused: it is
    not what keeps money safe."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._client: Any = None
        self._pause = Pause()

    async def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()

    async def count(self, caller: Caller) -> None:
        """Raise a 429 for a request too many."""
        if not self._per_minute or self._pause.lasts:
            return
        if self._client is None:
            url = read_settings(BudgetSettings).redis_url
            self._client = redis.asyncio.Redis.from_url(url, socket_timeout=QUICK_S, socket_connect_timeout=QUICK_S)
        now = time.time()
        key = f"{TAG}:api:{caller.name}:{int(now // 60)}"
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                count, _ = await pipe.incr(key).expire(key, 120).execute()
        except (RedisError, OSError) as error:
            self._pause.begin()
            logger.warning("requests are not counted for a moment: %s", type(error).__name__)
            return
        if count > self._per_minute:
            raise Problem(
                429, "too_many_requests", f"the token {caller.name} may make {self._per_minute} requests a minute",
                headers={"Retry-After": str(max(1, math.ceil(60 - now % 60)))},
            )  # fmt: skip
