"""What one would write in an afternoon: a Celery task that calls `litellm.completion` and inserts one row.

It has no budget, no record of a call under way, no fallback, no breaker, no deadline on the whole call, and nothing
that finds a lost job. Celery's own defaults, but for the events that Flower needs: the command line has them."""

import os
import time
from typing import Any

import litellm
from celery import Celery, Task

from benchmarks.peers.common import REQUEST, finish, messages, open_database

app = Celery("plain", broker=os.environ["PEER_REDIS"], backend=os.environ["PEER_REDIS"])
engine = open_database()


@app.task(name="parse", bind=True)
def parse(self: "Task[..., Any]", job_description: str) -> dict[str, Any]:
    """A posting as structured data."""
    started = time.perf_counter()
    response = litellm.completion(
        model="openai/gpt-4o",
        messages=messages(job_description),
        temperature=0.1,
        max_tokens=1000,
        response_format=REQUEST["response_format"],
    )
    return finish(engine, str(self.request.id), response, 1000 * (time.perf_counter() - started))
