"""How long a worker takes until it takes messages, and what it takes of memory, with nothing to do yet; and what
importing the tasks costs an application.

Prints JSON: seconds from the start of the process to its answer over the broker, CPU seconds and megabytes (PSS) then,
for a worker of jobs and one of maintenance alone (which never loads litellm), beside a plain Celery worker that imports
litellm. They take turns; medians."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.enqueue import import_cost
from benchmarks.peers.environment import peer_environment
from benchmarks.processes import Servers, cpu_s, memory_mb

WORKERS = {
    "jobs": ("worker.app", "-Q", "parse,generate,embed", "-c", "100"),
    "maintenance": ("worker.app", "-Q", "maintenance", "-c", "8"),
    "plain": ("benchmarks.peers.plain", "-P", "threads", "-c", "100"),
}


def start_once(servers: Servers, name: str, home: Path) -> dict[str, float]:
    """Start one worker and stop it."""
    redis = servers.environment["REDIS_URL"]
    broker = f"{redis.removesuffix('0')}1" if name == "plain" else redis
    environment = peer_environment(home, broker) if name == "plain" else {}
    # bytecode is what an installation has
    app, *options = WORKERS[name]
    started = time.perf_counter()
    pid = servers.start_worker_of(name, app, *options, environment={**environment, "PYTHONDONTWRITEBYTECODE": ""})
    servers.wait_for_workers(broker, name)
    ready = time.perf_counter() - started
    figures = {"ready_s": ready, "cpu_s": cpu_s(pid), "mb": memory_mb(pid)}
    servers.end([name])
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one worker, once: whether it works")
    options = parser.parse_args()
    rounds, names = (1, ["maintenance"]) if options.short else (options.rounds, [*WORKERS])
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder), simulate=False) as servers:
        for number in range(rounds + (not options.short)):
            for name in names:
                run = start_once(servers, name, Path(folder))
                if number or options.short:  # the first one may have written bytecode
                    runs[name].append(run)
    report: dict[str, Any] = {
        name: {figure: round(statistics.median(run[figure] for run in of), 2) for figure in of[0]}
        for name, of in runs.items()
    }
    print(json.dumps({"rounds": rounds, **report, "import_tasks": import_cost(1 if options.short else 7)}, indent=2))


if __name__ == "__main__":
    main()
