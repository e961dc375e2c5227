"""HTTP/1.1 as uvicorn speaks it, with an end for requests that do not come, and problems where it would answer text."""

import asyncio
import json
from contextlib import suppress

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.guard import SECURITY_HEADERS
from api.problems import MEDIA_TYPE, Problem

HEAD_WITHIN_S = 15


class Protocol(H11Protocol):
    """One connection. The head of its next request is there within `HEAD_WITHIN_S`, or it is closed."""

    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn itself has it
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._slow is not None:
            self._slow.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            if self._slow is not None:
                self._slow.cancel()
                self._slow = None
        elif self._slow is None:
            self._slow = self.loop.call_later(HEAD_WITHIN_S, self._too_slow)

    def _too_slow(self) -> None:
        self._refuse(Problem(408, "timeout", f"the head of the request did not arrive within {HEAD_WITHIN_S} s"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "bad_request", "this is not HTTP/1.1 as it should be"))

    def _refuse(self, refused: Problem) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(refused.body).encode()
        named = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
            **SECURITY_HEADERS,
        }
        answer = h11.Response(status_code=refused.status, headers=[*named.items()])
        with suppress(h11.LocalProtocolError):  # an answer is under way already
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
