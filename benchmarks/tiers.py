"""Whether a flood of one tier starves another: 20 parse jobs on an idle system, and behind 2,000 embed jobs.

Prints JSON: milliseconds until the first half and until all of 20 parse jobs are over, medians over batches one after
another, and how the flood went meanwhile. Each queue has a worker, as in `paymaster up` and docker-compose.yml;
providers take 500 ms."""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from celery.result import AsyncResult
from sqlalchemy import func, select

from benchmarks.processes import POSTING, Servers

LATENCY_S = 0.5
PARSE_JOBS, EMBED_JOBS, BATCHES = 20, 2000, 5
QUEUES = ("parse", "embed", "maintenance")
TEXTS = ["Kneads dough", "Bakes bread at night", "Sells rolls"]


def embeds_waiting() -> int:
    """How many embed jobs no worker has begun."""
    from db.models import Job, JobState
    from db.session import read

    with read() as session:
        query = select(func.count()).where(Job.kind == "embed", Job.state == JobState.QUEUED)
        return int(session.scalar(query) or 0)


def batch() -> dict[str, float]:
    """Milliseconds from the first submission to the results of parse jobs."""
    from tasks import parse

    started = time.perf_counter()
    results: list[AsyncResult[Any]] = [parse.delay(job_description=POSTING) for _ in range(PARSE_JOBS)]
    times = []
    for result in results:
        result.get(timeout=120)
        times.append(1000 * (time.perf_counter() - started))
    return {"half_ms": statistics.median(times), "all_ms": times[-1]}


def medians(batches: list[dict[str, float]]) -> dict[str, float]:
    """Over batches."""
    return {figure: round(statistics.median(one[figure] for one in batches)) for figure in batches[0]}


def measure(jobs: int, number: int, concurrency: int) -> dict[str, Any]:
    """Batches on the idle system, then as many behind the flood."""
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder), simulate=True) as servers:
        from tasks import embed
        from worker.app import app

        for queue in QUEUES:
            servers.start_worker_of(queue, "worker.app", "-Q", queue, "-c", str(concurrency))
        servers.wait_for_workers(servers.environment["REDIS_URL"], *QUEUES)
        batch()  # warm
        embed.delay(texts=TEXTS).get(timeout=120)
        servers.set_latency(LATENCY_S)
        idle = medians([batch() for _ in range(number)])
        node = ["embed@bench"]
        app.control.cancel_consumer("embed", destination=node, reply=True, timeout=5)
        flood = [embed.delay(texts=TEXTS) for _ in range(jobs)]
        started = time.perf_counter()
        app.control.add_consumer("embed", destination=node, reply=True, timeout=1)
        batches, waiting = [], []
        for _ in range(number):
            batches.append(batch())
            waiting.append(embeds_waiting())
        flooded = medians(batches)
        for result in flood:
            result.get(timeout=300)
        seconds = time.perf_counter() - started
    return {
        "idle": idle,
        "flooded": flooded,
        "ratio": {figure: round(flooded[figure] / idle[figure], 2) for figure in idle},
        "embed_jobs_per_second": round(jobs / seconds, 1),
        "embed_jobs_waiting_after_each_batch": waiting,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one batch behind few jobs: whether it works")
    options = parser.parse_args()
    jobs, number, concurrency = (60, 1, 20) if options.short else (EMBED_JOBS, BATCHES, 100)
    os.environ["DAILY_BUDGET_USD"] = os.environ["MONTHLY_BUDGET_USD"] = "9000000"
    report = {"embed_jobs": jobs, "parse_jobs": PARSE_JOBS, "batches": number}
    print(json.dumps(report | measure(jobs, number, concurrency), indent=2))


if __name__ == "__main__":
    main()
