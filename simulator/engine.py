"""The simulator itself: one request's way from the provider's route to the bill and back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web

from simulator import anthropic, embeddings, openai
from simulator.bill import Bill, Tally
from simulator.catalogue import Catalogue, Family
from simulator.delivery import deliver, refused, reset
from simulator.faults import Fault, Faults, Orders, ResetFault, StatusFault, altered, read_orders, shown_usage
from simulator.generation import Generation, Refused
from simulator.refusals import bad_request, by_order

# Requests larger than this are generated on a thread, so that others need not wait (bytes).
LARGE_BODY = 50_000
# Generated answers kept, in bytes: an answer depends on its request alone.
CACHE_BYTES = 64 << 20

Usage = tuple[int, int] | None


def _json_tail(render: Callable[[Generation, Usage], dict[str, Any]], answer: Generation, usage: Usage) -> bytes:
    """A response's JSON without the opening brace, which comes with the id."""
    return json.dumps(render(answer, usage), ensure_ascii=False, separators=(",", ":"))[1:].encode()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's route. `opening` is the body's start, with the request's id and the time in it."""

    route: str
    family: Family
    authenticate: Callable[[Mapping[str, str]], None]
    generate: Callable[[dict[str, Any], Catalogue, int], Generation]
    render: Callable[[Generation, Usage], bytes]
    opening: str
    id_header: str


CHAT = Endpoint(
    "chat",
    "openai",
    openai.authenticate,
    openai.chat,
    partial(_json_tail, openai.chat_body),
    '{{"id":"chatcmpl-{id}","created":{time},',
    "x-request-id",
)
EMBEDDINGS = Endpoint(
    "embeddings",
    "openai",
    openai.authenticate,
    embeddings.embed,
    embeddings.embed_body,
    "{{",
    "x-request-id",
)
MESSAGES = Endpoint(
    "messages",
    "anthropic",
    anthropic.authenticate,
    anthropic.message,
    partial(_json_tail, anthropic.message_body),
    '{{"id":"msg_{id}",',
    "request-id",
)

PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages": MESSAGES,
    "/openai/deployments/{deployment}/chat/completions": CHAT,
    "/openai/deployments/{deployment}/embeddings": EMBEDDINGS,
}


class Ready(NamedTuple):
    """A generated answer and its normal rendering."""

    answer: Generation
    tail: bytes


class Simulator:
    """The state of one running simulator. All of it belongs to one event loop."""

    def __init__(self, catalogue: Catalogue, latency_s: float, seed: int) -> None:
        self.catalogue = catalogue
        self.latency_s = latency_s
        self.seed = seed
        # Ids of two runs must not meet in one ledger.
        self.run_id = os.urandom(4).hex()
        self.served = 0
        self.faults = Faults()
        self.cache: OrderedDict[tuple[str, bytes], Ready] = OrderedDict()
        self.cached_bytes = 0
        self.reset()

    def reset(self) -> None:
        """An empty bill, no faults, nothing counted. Request ids go on."""
        self.bill = Bill()
        self.tally = Tally()
        self.faults.set(Orders())

    # --- the providers' routes

    async def serve(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """One provider request, counted while it is in flight."""
        with self.tally.under_way():
            return await self.answer(endpoint, request)

    async def answer(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Refuse it, or generate, bill and deliver."""
        received = time.time()
        self.served += 1
        self.tally.requests += 1
        self.tally.routes[endpoint.route] += 1
        request_id = f"{self.run_id}{self.served:010d}"
        headers = {endpoint.id_header: f"req_{request_id}"}
        try:
            endpoint.authenticate(request.headers)
            ready = await self.ready(endpoint, request)
            fault, delay_s = self.faults.choose(ready.answer.model, endpoint.route)
            delay_s += self.latency_s
            if isinstance(fault, StatusFault):
                await asyncio.sleep(delay_s)
                raise by_order(ready.answer.model, fault.status, fault.code, fault.retry_after)
        except Refused as refusal:
            self.tally.refused[refusal.status] += 1
            return refused(refusal, headers)
        if isinstance(fault, ResetFault) and fault.before:
            return reset(request)
        answer, tail = self.bend(endpoint, ready, fault) if fault else ready
        self.bill.record(
            model=answer.model,
            route=endpoint.route,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            fault=fault.fault if fault else None,
            received=received,
            request_id=request_id,
        )
        if delay_s:
            await asyncio.sleep(delay_s)
        opening = endpoint.opening.format(id=request_id, time=int(received))
        return await deliver(request, opening.encode() + tail, headers, fault)

    async def ready(self, endpoint: Endpoint, request: web.Request) -> Ready:
        """The answer to this body, generated once."""
        body = await request.read()
        key = (request.path, hashlib.blake2b(body, digest_size=16).digest())
        found = self.cache.get(key)
        if found is not None:
            self.cache.move_to_end(key)
            return found
        deployment = request.match_info.get("deployment")
        make = partial(self.generate, endpoint, body, deployment)
        made = await asyncio.to_thread(make) if len(body) > LARGE_BODY else make()
        if key not in self.cache and len(made.tail) < CACHE_BYTES // 16:
            self.cache[key] = made
            self.cached_bytes += len(made.tail)
            while self.cached_bytes > CACHE_BYTES:
                self.cached_bytes -= len(self.cache.popitem(last=False)[1].tail)
        return made

    def generate(self, endpoint: Endpoint, body: bytes, deployment: str | None) -> Ready:
        """Read the request and generate its answer; `Refused` if the provider would not."""
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise bad_request(endpoint.family, "We could not parse the JSON body of your request.")
        if deployment is not None:
            payload["model"] = deployment
        answer = endpoint.generate(payload, self.catalogue, self.seed)
        return Ready(answer, endpoint.render(answer, (answer.input_tokens, answer.output_tokens)))

    def bend(self, endpoint: Endpoint, ready: Ready, fault: Fault) -> Ready:
        """The answer as the fault has it generated and told."""
        answer = altered(ready.answer, fault)
        return Ready(answer, endpoint.render(answer, shown_usage(answer, fault)))

    # --- the routes of the tests

    async def get_bill(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not after.isdecimal():
            return web.json_response({"error": "after: a seq, that is a whole number."}, status=422)
        entries = request.query.get("entries", "0") not in ("", "0", "false")
        return web.json_response(self.bill.report(entries=entries, after=int(after)))

    async def get_requests(self, request: web.Request) -> web.Response:
        return web.json_response(self.tally.as_dict() | {"billed": self.bill.totals.requests})

    async def get_faults(self, request: web.Request) -> web.Response:
        return web.json_response(self.faults.orders.model_dump(exclude_none=True))

    async def put_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.set(read_orders(await request.read()))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=422)
        return await self.get_faults(request)

    async def delete_faults(self, request: web.Request) -> web.Response:
        self.faults.set(Orders())
        return await self.get_faults(request)

    async def post_reset(self, request: web.Request) -> web.Response:
        self.reset()
        return web.json_response({"status": "ok"})

    async def healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "models": [model.id for model in self.catalogue.models]})
