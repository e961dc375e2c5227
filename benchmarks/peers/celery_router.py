"""A Celery task that calls through `litellm.Router` with a budget per provider, kept in Redis, and inserts one row.

The Router checks its budgets on its asynchronous way only, and wants a running loop when it is made: so there is one
loop in the process, and the tasks, on threads, wait for it. It has no record of a call under way, and its budgets are
counted after the call: benchmarks/overshoot.py says what that comes to."""

import asyncio
import os
import threading
import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, Task
from litellm.router import Router
from litellm.types.utils import BudgetConfig

from benchmarks.peers.common import REQUEST, finish, messages, open_database

app = Celery("router", broker=os.environ["PEER_REDIS"], backend=os.environ["PEER_REDIS"])
engine = open_database()
made = threading.Lock()


@cache
def start_router() -> tuple[asyncio.AbstractEventLoop, Router]:
    """The process' loop and its Router."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    address = urlsplit(os.environ["PEER_REDIS"])

    async def make() -> Router:
        return Router(
            model_list=[{"model_name": "gpt-4o", "litellm_params": {"model": "openai/gpt-4o"}}],
            provider_budget_config={"openai": BudgetConfig(budget_limit=1_000_000.0, time_period="1d")},
            redis_host=address.hostname,
            redis_port=address.port,
        )

    return loop, asyncio.run_coroutine_threadsafe(make(), loop).result()


@app.task(name="parse", bind=True)
def parse(self: "Task[..., Any]", job_description: str) -> dict[str, Any]:
    """A posting as structured data."""
    started = time.perf_counter()
    with made:
        loop, router = start_router()
    call = router.acompletion(
        model="gpt-4o",
        messages=messages(job_description),  # type: ignore[arg-type]  # the class wants litellm's own types
        temperature=0.1,
        max_tokens=1000,
        response_format=REQUEST["response_format"],
    )
    response = asyncio.run_coroutine_threadsafe(call, loop).result()
    return finish(engine, str(self.request.id), response, 1000 * (time.perf_counter() - started))
