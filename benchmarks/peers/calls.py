"""What the peer programs do alike: wait for the word, make their share of the calls, note each one that has ended.

A program gets one JSON object as its argument. Started once more, it makes only the calls that its log does not hold,
as a queue would that delivers again what was not acknowledged."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_TOKENS = 1000


@dataclass(frozen=True)
class Share:
    """One process' part. `numbers` are the calls that it makes, `in_flight` of them at a time; `log` gets a line for
    each that has ended. `fallback` is the model after `model`, if there is one.
    `server` and `key` are for whoever calls a server between."""

    numbers: list[int]
    in_flight: int
    log: str
    simulator: str
    redis_port: int
    budget_usd: float
    model: str
    fallback: str | None
    prompt: str
    server: str
    key: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.prompt}]


def my_share() -> Share:
    """What the argument says."""
    return Share(**json.loads(sys.argv[1]))


async def play(share: Share, call: Callable[[], Awaitable[object]]) -> None:
    """Make the calls; one that raises was not served."""
    log = Path(share.log)
    done = {json.loads(line)["number"] for line in log.read_text().splitlines()} if log.exists() else set()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    room = asyncio.Semaphore(share.in_flight)

    async def one(number: int) -> None:
        async with room:
            error = None
            try:
                await call()
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"[:200]
        with log.open("a") as file:
            file.write(json.dumps({"number": number, "error": error}) + "\n")

    await asyncio.gather(*(one(number) for number in share.numbers if number not in done))
