"""How fast the simulator serves: requests per second and latency per route, from a client process of its own.

    python benchmarks/simulator.py [--seconds 5] [--requests 30000] [--connections 16]

Starts one simulator process, sends pre-built requests over keep-alive connections, and prints JSON. Each route
ends at the first of the two bounds. 64 different prompts are repeated, as are jobs in a load test; `fresh` sends
every prompt once, so that each answer is generated and its tokens are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

DIFFERENT = 64
SKILLS = ("Python", "Kubernetes", "PostgreSQL", "Kafka", "Terraform", "Redis", "Go", "GraphQL")
TEXTS = {"type": "array", "items": {"type": "string"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["company_name", "role_title", "summary", "skills", "responsibilities", "confidence_score"],
    "properties": {
        "company_name": {"type": "string"},
        "role_title": {"type": "string"},
        "summary": {"type": "string"},
        "skills": TEXTS,
        "responsibilities": TEXTS,
        "confidence_score": {"type": "number", "minimum": 0, "maximum": 1},
    },
}


def posting(number: int) -> str:
    """A job posting of about 2,500 characters."""
    lines = [f"company_name: Company {number}", f"role_title: Engineer {number}", ""]
    for line in range(17):
        first, second = SKILLS[(number + line) % 8], SKILLS[(number * 3 + line + 1) % 8]
        lines.append(
            f"You will own part {line} of product {number}, built with {first} and {second}, and improve its "
            "reliability, cost and delivery together with four colleagues."
        )
    return "\n".join(lines)


def chat(number: int) -> dict[str, Any]:
    """An OpenAI chat completion with a schema."""
    described = {"name": "posting", "strict": True, "schema": SCHEMA}
    return {
        "model": "gpt-4o",
        "max_tokens": 1000,
        "messages": [
            {"role": "system", "content": "Parse the posting into JSON."},
            {"role": "user", "content": posting(number)},
        ],
        "response_format": {"type": "json_schema", "json_schema": described},
    }


def message(number: int) -> dict[str, Any]:
    """An Anthropic message with a forced tool."""
    return {
        "model": "claude-sonnet-4-20250514",
        "max_tokens": 1000,
        "system": "Parse the posting.",
        "messages": [{"role": "user", "content": posting(number)}],
        "tools": [{"name": "json_tool_call", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "json_tool_call"},
    }


def embedding(number: int) -> dict[str, Any]:
    """One text of a posting's length, as base64."""
    return {"model": "text-embedding-3-small", "input": posting(number), "encoding_format": "base64"}


def raw(path: str, payload: dict[str, Any]) -> bytes:
    """A whole HTTP/1.1 request."""
    body = json.dumps(payload).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: simulator\r\nAuthorization: Bearer sk-benchmark\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as an answer is whole."""

    def __init__(self, requests: Iterator[bytes], times: list[float], until: float) -> None:
        self.requests, self.times, self.until = requests, times, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        request = next(self.requests, None)
        if request is None or time.perf_counter() > self.until:
            self.transport.close()
            return
        self.received.clear()
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.received[:end])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode() + self.received[end:].decode(errors="replace"))
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(self.received) >= end + 4 + length:
            self.times.append(time.perf_counter() - self.sent)
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set_result(None)


async def measure(host: str, port: int, requests: Iterator[bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Requests per second and milliseconds, over all connections."""
    times: list[float] = []
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    made = [
        await loop.create_connection(lambda: Client(requests, times, start + seconds), host, port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for _, client in made))
    took = time.perf_counter() - start
    times.sort()
    return {
        "requests": len(times),
        "requests_per_s": round(len(times) / took),
        "p50_ms": round(times[len(times) // 2] * 1000, 2),
        "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
    }


def main() -> None:
    """Start a simulator, measure each route, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="at most, for each route")
    parser.add_argument("--requests", type=int, default=30_000, help="at most, for each route")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--short", action="store_true", help="a few requests: whether it works")
    options = parser.parse_args()
    if options.short:
        options.seconds, options.requests = 1, 200
    command = [sys.executable, "-m", "simulator", "--port", "0", "--json"]
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        target = urlsplit(url)
        routes = {
            "chat": ("/v1/chat/completions", chat),
            "messages": ("/v1/messages", message),
            "embeddings": ("/v1/embeddings", embedding),
        }
        report: dict[str, Any] = {}
        for name, (path, make) in routes.items():
            built = [raw(path, make(number)) for number in range(DIFFERENT)]
            repeated = (request for request, _ in zip(cycle(built), range(options.requests), strict=False))
            run = measure(target.hostname or "", target.port or 0, repeated, options.connections, options.seconds)
            report[name] = asyncio.run(run)
        built = [
            raw("/v1/chat/completions", chat(number)) for number in range(1000, 1000 + min(2000, options.requests))
        ]
        run = measure(target.hostname or "", target.port or 0, iter(built), options.connections, options.seconds)
        report["chat_fresh"] = asyncio.run(run)
        billed = json.load(urlopen(url + "/bill"))["requests"]
        report["all_billed"] = billed == sum(route["requests"] for route in report.values())
        print(json.dumps(report, indent=2))
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
