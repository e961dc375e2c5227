"""Whether a flood of one tier starves another: 20 parse jobs on an idle system, and behind 2,000 embed jobs.

Prints JSON: milliseconds until all 20 are submitted, and until the first half and all are over, medians over batches
one after another, and how the flood went meanwhile, on PostgreSQL and on SQLite. Each queue has a worker, as in
docker-compose.yml and `paymaster up`; providers take 500 ms."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from celery.result import AsyncResult
from sqlalchemy import func, select

from benchmarks.processes import POSTING, Servers
from tests.postgres import database_on, postgres_server

LATENCY_S = 0.5
PARSE_JOBS, EMBED_JOBS, BATCHES = 20, 2000, 5
QUEUES = ("parse", "embed", "maintenance")
# whoever waits for parse jobs is not also told the results of the flood
FLOOD = """
import sys
from tasks import embed
for _ in range(int(sys.argv[1])):
    embed.delay(texts=["Kneads dough", "Bakes bread at night", "Sells rolls"])
"""


def embeds_waiting() -> tuple[int, int]:
    """How many embed jobs no worker has begun, and how many are not over."""
    from db.models import Job, JobState
    from db.session import read

    with read() as session:
        query = select(Job.state, func.count()).where(Job.kind == "embed").group_by(Job.state)
        counts = {JobState(state): number for state, number in session.execute(query)}
    return counts.get(JobState.QUEUED, 0), sum(number for state, number in counts.items() if not state.final)


def batch() -> dict[str, float]:
    """Milliseconds from the first submission to the last, and to the results of parse jobs."""
    from tasks import parse

    started = time.perf_counter()
    results: list[AsyncResult[Any]] = [parse.delay(job_description=POSTING) for _ in range(PARSE_JOBS)]
    submitted_ms, times = 1000 * (time.perf_counter() - started), []
    for result in results:
        result.get(timeout=120)
        times.append(1000 * (time.perf_counter() - started))
    return {"submitted_ms": submitted_ms, "half_ms": statistics.median(times), "all_ms": times[-1]}


def medians(batches: list[dict[str, float]]) -> dict[str, float]:
    """Over batches."""
    return {figure: round(statistics.median(one[figure] for one in batches)) for figure in batches[0]}


def measure(database: str | None, jobs: int, number: int, concurrency: int) -> dict[str, Any]:
    """Batches on the idle system, then as many behind the flood. `database` is SQLite if None."""
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder), simulate=True, database=database) as servers:
        from worker.app import app

        for queue in QUEUES:
            servers.start_worker_of(queue, "worker.app", "-Q", queue, "-c", str(concurrency))
        servers.wait_for_workers(servers.environment["REDIS_URL"], *QUEUES)
        flood = [sys.executable, "-c", FLOOD]
        batch()  # warm
        subprocess.run([*flood, "10"], check=True)
        servers.set_latency(LATENCY_S)
        idle = medians([batch() for _ in range(number)])
        node = ["embed@bench"]
        app.control.cancel_consumer("embed", destination=node, reply=True, timeout=5)
        subprocess.run([*flood, str(jobs)], check=True)
        started = time.perf_counter()
        app.control.add_consumer("embed", destination=node, reply=True, timeout=1)
        batches, waiting = [], []
        for _ in range(number):
            batches.append(batch())
            waiting.append(embeds_waiting()[0])
        flooded = medians(batches)
        while embeds_waiting()[1]:
            time.sleep(0.5)
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
    parser.add_argument("--database", choices=("postgresql", "sqlite"), help="only this one")
    parser.add_argument("--short", action="store_true", help="SQLite, one batch behind few jobs: whether it works")
    options = parser.parse_args()
    jobs, number, concurrency = (60, 1, 20) if options.short else (EMBED_JOBS, BATCHES, 100)
    os.environ["DAILY_BUDGET_USD"] = os.environ["MONTHLY_BUDGET_USD"] = "9000000"
    with ExitStack() as held:
        if options.database == "postgresql":
            server = held.enter_context(postgres_server({"max_connections": "500"}))
            report = measure(held.enter_context(database_on(server.url, "tiers")), jobs, number, concurrency)
        elif options.database == "sqlite" or options.short:
            report = measure(None, jobs, number, concurrency)
        else:
            report = {"embed_jobs": jobs, "parse_jobs": PARSE_JOBS, "batches": number}
            # a process each: Celery's app keeps the servers that it has met first
            for name in ("postgresql", "sqlite"):
                command = [sys.executable, "-m", "benchmarks.tiers", "--database", name]
                report[name] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(json.dumps({"sqlite": report} if options.short else report, indent=2))


if __name__ == "__main__":
    main()
