"""What a job costs one worker process: parse jobs with 100 in flight on a provider that answers after 500 ms.

Prints JSON: jobs a second, and CPU milliseconds per job of the worker. The figures are for comparing two versions
on one machine, in turn."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from cli.stack import Stack

CONCURRENCY = 100
LATENCY_S = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


class OneWorker(Stack):
    """The servers, and one worker for all queues."""

    def _start_celery(self) -> None:
        self.start(
            "worker",
            sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "parse,maintenance",
            "-c", str(CONCURRENCY), "--loglevel", "WARNING", "--without-mingle", "--without-gossip",
        )  # fmt: skip

    def cpu_s(self) -> float:
        """CPU seconds of the worker so far."""
        fields = Path(f"/proc/{self.pid('worker')}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def measure(stack: OneWorker, count: int) -> dict[str, float]:
    """Submit `count` jobs and wait for the last result."""
    from celery.result import ResultSet

    from tasks import parse
    from worker.app import app

    posting = "We look for a baker. Skills: dough and ovens. " * 60
    cpu, started = stack.cpu_s(), time.perf_counter()
    results = ResultSet([parse.delay(job_description=posting) for _ in range(count)], app=app)
    results.join(timeout=300)
    seconds, cpu = time.perf_counter() - started, stack.cpu_s() - cpu
    return {
        "jobs": count,
        "jobs_per_second": round(count / seconds, 1),
        "worker_cpu_ms_per_job": round(1000 * cpu / count, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1500)
    parser.add_argument("--short", action="store_true", help="a few jobs: whether it works")
    options = parser.parse_args()
    warm, count = (5, 20) if options.short else (100, options.jobs)
    os.environ["DAILY_BUDGET_USD"] = os.environ["MONTHLY_BUDGET_USD"] = "unlimited"
    with tempfile.TemporaryDirectory() as folder, OneWorker(Path(folder), simulate=True) as stack:
        import urllib.request

        url = stack.environment["PAYMASTER_SIMULATOR"] + "/faults"
        rules = json.dumps({"rules": [{"fault": "latency", "seconds": LATENCY_S}]}).encode()
        urllib.request.urlopen(urllib.request.Request(url, data=rules, method="PUT")).read()
        measure(stack, warm)
        print(json.dumps({"parse": measure(stack, count)}, indent=2))


if __name__ == "__main__":
    main()
