"""What submitting costs an application: importing the tasks, and `parse.delay()` beside a bare Celery `delay()`.

Prints JSON. Every figure is the median of its runs; the import is timed in fresh processes, with bytecode."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS, JOBS = 7, 300

IMPORT = """
import json, resource, sys, time
started = time.perf_counter()
from tasks import embed, generate, parse
seconds = time.perf_counter() - started
scale = 1024 if sys.platform == "linux" else 1024 * 1024
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
print(json.dumps({"seconds": seconds, "megabytes": megabytes, "litellm": "litellm" in sys.modules}))
"""


def import_cost(imports: int) -> dict[str, object]:
    """Seconds and megabytes of `from tasks import …` in so many new processes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = []
    for _ in range(imports + 1):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, env=environment)
        runs.append(json.loads(done.stdout))
    counted = runs[1:]  # the first one may have written bytecode
    return {
        "seconds": round(statistics.median(run["seconds"] for run in counted), 3),
        "megabytes": round(statistics.median(run["megabytes"] for run in counted), 1),
        "imports_litellm": any(run["litellm"] for run in counted),
    }


def submit_cost(home: Path, jobs: int) -> dict[str, float]:
    """Milliseconds of one `parse.delay()` and of one bare Celery message, in one run, without workers."""
    from cli.stack import Stack

    class Servers(Stack):
        def _start_celery(self) -> None:
            """Only the servers: the messages stay in their queues."""

    posting = "We look for a baker. Skills: dough and ovens. " * 60
    with Servers(home, simulate=False):
        from tasks import parse
        from worker.app import app

        def job() -> None:
            parse.delay(job_description=posting, user_id=1)

        def bare() -> None:
            app.send_task("maintenance.sweep")

        times: dict[str, list[float]] = {"parse.delay": [], "bare delay": []}
        for _ in range(jobs):
            for name, submit in (("parse.delay", job), ("bare delay", bare)):
                started = time.perf_counter()
                submit()
                times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "delay_ms": round(medians["parse.delay"], 3),
        "bare_delay_ms": round(medians["bare delay"], 3),
        "ratio": round(medians["parse.delay"] / medians["bare delay"], 2),
    }


def main() -> None:
    """Run both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few of each: whether it works")
    imports, jobs = (1, 10) if parser.parse_args().short else (IMPORTS, JOBS)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"import": import_cost(imports), "submit": submit_cost(Path(folder), jobs)}, indent=2))


if __name__ == "__main__":
    main()
