"""What a whole job costs, from submit to result: ours, beside a plain Celery task with litellm, and beside one with
`litellm.Router` and its Redis budgets (benchmarks/peers/).

Prints JSON: CPU milliseconds per job of the worker, of the submitting program and of Redis; jobs a second; and how long
one job alone takes. All have the same requests to the same simulator, one worker process with events that takes 100
jobs at once, the same Redis server and an SQLite file each; ours has its own pool, the others Celery's threads. They
take turns, and the figures are medians over the rounds."""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NotInTime
from celery.result import AsyncResult, ResultSet

from benchmarks.peers.environment import peer_environment
from benchmarks.processes import POSTING, Servers, cpu_s

CONCURRENCY = 100
LATENCIES_MS = (0, 500)
PEERS = {
    "plain": ("benchmarks.peers.plain", "-E"),
    "plain-without-events": ("benchmarks.peers.plain",),
    "router": ("benchmarks.peers.celery_router", "-E"),
}
WAIT_S = 300

Submit = Callable[[], AsyncResult[Any]]


def start(servers: Servers, home: Path, peers: list[str]) -> dict[str, Submit]:
    """Start a worker for ours and each of the peers; how each of them is given a job."""
    from tasks import parse

    at_once = ("-c", str(CONCURRENCY))
    servers.start_worker_of("ours", "worker.app", "-Q", "parse,maintenance", *at_once)
    submits: dict[str, Submit] = {"ours": lambda: parse.delay(job_description=POSTING)}
    brokers = {"ours": servers.environment["REDIS_URL"]}
    for number, name in enumerate(peers, start=1):
        module, *options = PEERS[name]
        brokers[name] = f"{brokers['ours'].removesuffix('0')}{number}"
        environment = peer_environment(home, brokers[name], number)
        servers.start_worker_of(name, module, *options, "-P", "threads", *at_once, environment=environment)
        app = Celery(name, broker=brokers[name], backend=brokers[name], set_as_current=False)
        submits[name] = partial(app.send_task, "parse", kwargs={"job_description": POSTING})
    for name, broker in brokers.items():
        servers.wait_for_workers(broker, name)
    return submits


def one_round(servers: Servers, name: str, submit: Submit, jobs: int, alone: int) -> dict[str, float]:
    """So many jobs at once, and so many one after another."""
    worker, redis = servers.pid(name), servers.pid("redis")
    asked = servers.requests()
    before, own, started = (cpu_s(worker), cpu_s(redis)), time.process_time(), time.perf_counter()
    results = [submit() for _ in range(jobs)]
    own = time.process_time() - own
    try:
        ResultSet(results, app=results[0].app).join(timeout=WAIT_S)
    except NotInTime:
        missing = [one.id for one in results if not one.ready()]
        raise RuntimeError(f"{name}: not told within {WAIT_S} s; {len(missing)} not over: {missing[:5]}") from None
    seconds = time.perf_counter() - started
    used = (cpu_s(worker) - before[0], cpu_s(redis) - before[1])
    walls = []
    for _ in range(alone):
        started = time.perf_counter()
        submit().get(timeout=WAIT_S)
        walls.append(time.perf_counter() - started)
    if servers.requests() - asked != jobs + alone:
        raise RuntimeError(f"{name}: the providers were asked {servers.requests() - asked} times")
    return {
        "worker_cpu_ms": 1000 * used[0] / jobs,
        "submit_cpu_ms": 1000 * own / jobs,
        "redis_cpu_ms": 1000 * used[1] / jobs,
        "jobs_per_second": jobs / seconds,
        "alone_ms": 1000 * statistics.median(walls),
    }


def compare(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, and those of the ratios of ours to each peer in the same round."""

    def ratio(peer: str, *figures: str) -> float:
        pairs = zip(rounds["ours"], rounds[peer], strict=True)
        return round(statistics.median(sum(a[f] for f in figures) / sum(b[f] for f in figures) for a, b in pairs), 3)

    figures = rounds["ours"][0]
    told: dict[str, Any] = {
        name: {figure: round(statistics.median(each[figure] for each in of), 2) for figure in figures}
        for name, of in rounds.items()
    }
    peers = [name for name in rounds if name != "ours"]
    told["worker_cpu_ratio"] = {peer: ratio(peer, "worker_cpu_ms") for peer in peers}
    told["all_cpu_ratio"] = {peer: ratio(peer, "worker_cpu_ms", "submit_cpu_ms", "redis_cpu_ms") for peer in peers}
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=400, help="at once, in each round of each")
    parser.add_argument("--short", action="store_true", help="one small round: whether it works")
    options = parser.parse_args()
    number, jobs, alone = (1, 20, 2) if options.short else (options.rounds, options.jobs, 9)
    peers, latencies = (["plain"], (0,)) if options.short else ([*PEERS], LATENCIES_MS)
    os.environ["DAILY_BUDGET_USD"] = os.environ["MONTHLY_BUDGET_USD"] = "9000000"
    report: dict[str, Any] = {"rounds": number, "jobs": jobs, "concurrency": CONCURRENCY}
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder), simulate=True) as servers:
        submits = start(servers, Path(folder), peers)
        for name, submit in submits.items():
            one_round(servers, name, submit, jobs, 1)  # warm
        for latency in latencies:
            servers.set_latency(latency / 1000)
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in submits}
            for _ in range(number):
                for name, submit in submits.items():
                    rounds[name].append(one_round(servers, name, submit, jobs, alone))
            report[f"{latency} ms"] = compare(rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
