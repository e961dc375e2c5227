"""Sending an answer: whole, slowly, in part, broken, or not at all. The bill is written before."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from simulator.faults import CutFault, DripFault, Fault, HangFault, MalformedFault, ResetFault
from simulator.generation import Refused
from simulator.refusals import HTML

JSON = "application/json"


def reset(request: web.Request) -> web.Response:
    """Close the connection with RST: the client sees a reset, not an end."""
    transport = request.transport
    if transport is not None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def refused(refusal: Refused, headers: dict[str, str]) -> web.Response:
    """The provider's own error response."""
    if refusal.retry_after is not None:
        headers["retry-after"] = f"{refusal.retry_after:g}"
    if isinstance(refusal.content, str):
        return web.Response(text=refusal.content, status=refusal.status, content_type="text/html", headers=headers)
    return web.json_response(refusal.content, status=refusal.status, headers=headers)


async def deliver(
    request: web.Request, body: bytes, headers: dict[str, str], fault: Fault | None
) -> web.StreamResponse:
    """Send a billed answer as the fault has it."""
    if isinstance(fault, ResetFault):
        return reset(request)
    if isinstance(fault, HangFault):
        await asyncio.sleep(fault.seconds)
    if isinstance(fault, MalformedFault):
        if fault.body == "html":
            return web.Response(text=HTML[502], content_type="text/html", headers=headers)
        body = body[: len(body) // 2]
    headers["Content-Type"] = JSON
    if isinstance(fault, (DripFault, CutFault)):
        return await _in_parts(request, body, headers, fault)
    return web.Response(body=body, headers=headers)


async def _in_parts(
    request: web.Request, body: bytes, headers: dict[str, str], fault: DripFault | CutFault
) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    try:
        if isinstance(fault, CutFault):
            await response.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        for start in range(0, len(body), fault.bytes):
            await response.write(body[start : start + fault.bytes])
            await asyncio.sleep(fault.seconds)
    except ConnectionError:
        return response  # the client gave up: nobody is left to tell
    return response
