"""How many calls one worker holds in flight: ours with 500 threads, beside a plain Celery worker with prefork.

Prints JSON, for providers that take 500 ms and 5 s: the calls in flight at the simulator (the most, and the median
while the queue had more), jobs a second, milliseconds of a call as the worker saw it, and the worker's memory (PSS:
what processes share is counted once) before the first call and at its most. All jobs are in the queue before the first
is taken."""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import create_engine, text

from benchmarks.peers.environment import peer_environment
from benchmarks.processes import POSTING, Servers, cpu_s, memory_mb

OURS, PREFORK = 500, 20
# jobs of a run at each latency: a few times what is held, and no longer than a minute or so
JOBS = {0.5: {"ours": 1000, "prefork": 200}, 5.0: {"ours": 1000, "prefork": 60}}
CALLS = {
    "ours": "SELECT processing_time_ms FROM model_performance_metrics ORDER BY created_at DESC LIMIT :jobs",
    "prefork": "SELECT milliseconds FROM calls ORDER BY id DESC LIMIT :jobs",
}
WITHIN_S = 300


def hold(
    servers: Servers, name: str, app: Celery, queue: str, submit: Callable[[], object], jobs: int
) -> dict[str, Any]:
    """Fill the queue, let the worker have it, and look at it until all jobs are over."""
    worker, node = servers.pid(name), [f"{name}@bench"]
    app.control.cancel_consumer(queue, destination=node, reply=True, timeout=5)
    results: list[Any] = [submit() for _ in range(jobs)]
    idle, cpu, started = memory_mb(worker), cpu_s(worker), time.perf_counter()
    # an order may be lost on a busy machine; it returns with the reply
    while not app.control.add_consumer(queue, destination=node, reply=True, timeout=2):
        pass
    samples, memory = [], [idle]
    while True:
        told = servers.ask("/requests")
        if told["requests"] >= jobs and not told["in_flight"]:
            break
        if time.perf_counter() - started > WITHIN_S:
            raise RuntimeError(f"{name}: {told['requests']} of {jobs} requests within {WITHIN_S} s")
        if told["requests"] < jobs:
            samples.append(told["in_flight"])
        memory.append(memory_mb(worker))
        time.sleep(0.2)
    for result in results:
        result.get(timeout=60)
    seconds = time.perf_counter() - started
    most = servers.ask("/requests")["most_in_flight"]
    return {
        "jobs": jobs,
        "most_in_flight": most,
        "median_in_flight": round(statistics.median(samples or [most])),
        "jobs_per_second": round(jobs / seconds, 1),
        "worker_cpu_ms": round(1000 * (cpu_s(worker) - cpu) / jobs, 2),
        "idle_mb": round(idle, 1),
        "most_mb": round(max(memory), 1),
        "mb_per_call": round(max(memory) / most, 2),
        "more_mb_per_call": round((max(memory) - idle) / most, 2),
    }


def call_times(name: str, url: str, jobs: int, latency_s: float) -> dict[str, float]:
    """How long the calls took in the eyes of the worker, and their median as a multiple of the provider's time."""
    with create_engine(url).connect() as connection:
        times = [float(row[0]) for row in connection.execute(text(CALLS[name]), {"jobs": jobs})]
    middle = statistics.median(times)
    p95 = statistics.quantiles(times, n=20)[-1]
    return {"call_p50_ms": round(middle), "call_p95_ms": round(p95), "to_provider": round(middle / 1000 / latency_s, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="a few jobs of ours: whether it works")
    options = parser.parse_args()
    amounts = {0.5: {"ours": 40, "prefork": 4}} if options.short else JOBS
    ours, prefork = (20, 2) if options.short else (OURS, PREFORK)
    os.environ["DAILY_BUDGET_USD"] = os.environ["MONTHLY_BUDGET_USD"] = "9000000"
    report: dict[str, Any] = {"slots": {"ours": ours, "prefork": prefork}, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder), simulate=True) as servers:
        from tasks import parse
        from worker.app import app

        redis = servers.environment["REDIS_URL"]
        environment = peer_environment(Path(folder), peer_redis := f"{redis.removesuffix('0')}1")
        plain = Celery("plain", broker=peer_redis, backend=peer_redis, set_as_current=False)
        servers.start_worker_of("ours", "worker.app", "-Q", "parse,maintenance", "-c", str(ours))
        servers.wait_for_workers(redis, "ours")
        submits: dict[str, tuple[Celery, str, Callable[[], object], str]] = {
            "ours": (app, "parse", lambda: parse.delay(job_description=POSTING), servers.environment["DATABASE_URL"]),
            "prefork": (
                plain,
                "celery",
                lambda: plain.send_task("parse", kwargs={"job_description": POSTING}),
                environment["PEER_DATABASE"],
            ),
        }
        if options.short:
            del submits["prefork"]
        else:
            servers.start_worker_of(
                "prefork", "benchmarks.peers.plain", "-E", "-P", "prefork", "-c", str(prefork), environment=environment
            )
            servers.wait_for_workers(peer_redis, "prefork")
        for name, (at, queue, submit, _) in submits.items():
            servers.set_latency(0)
            hold(servers, name, at, queue, submit, 2 * prefork)  # warm
        for latency, jobs in amounts.items():
            told = report[f"{round(1000 * latency)} ms"] = {}
            for name, (at, queue, submit, database) in submits.items():
                runs = []
                for _ in range(options.rounds):
                    servers.set_latency(latency)
                    run = hold(servers, name, at, queue, submit, jobs[name])
                    runs.append(run | call_times(name, database, jobs[name], latency))
                told[name] = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
