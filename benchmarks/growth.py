"""Whether a job costs the same when many are stored: CPU of worker, Redis and PostgreSQL per job, and jobs a second,
with 10^3, 10^4 and 10^5 jobs in SQL, of one user and of 10^4, on SQLite and PostgreSQL.

Prints JSON. Each size has a database, a Redis and a worker of its own; they take their batches in turn, `--rounds` (5)
times after one that is not counted, and every figure is the median of its rounds. It is flat if the largest costs at
most 10 % more CPU than the smallest. The provider answers after 50 ms; nothing else is done, no sweeper runs."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks import proc
from benchmarks.stage import JOB_QUEUES, Small
from db.migrate import upgrade
from db.once import once_per_environment
from db.session import engine
from simulator.server import running
from tests.db.statements import fill
from tests.postgres import PostgresServer, database_on, postgres_server

SIZES = (1_000, 10_000, 100_000)
USERS = {"1 user": 1, "10000 users": 10_000}
LATENCY_S = 0.05
FLAT = 1.1

# submits batches in a process of its own, since tasks belong to one environment
SUBMIT = """
import json, random, sys, time
from celery.result import ResultSet
from tasks import parse
from worker.app import app
posting = "We look for a baker. Skills: dough and ovens. " * 60
source = random.Random(4)
for line in sys.stdin:
    count, users = json.loads(line)
    started = time.perf_counter()
    ids = [parse.delay(job_description=posting, user_id=f"user-{source.randrange(users)}") for _ in range(count)]
    ResultSet(ids, app=app).join(timeout=300)
    print(json.dumps(time.perf_counter() - started), flush=True)
"""


class Arm(Small):
    """One worker on a database that holds so many jobs of so many users."""

    def __init__(self, home: Path, database: str | None, size: int, users: int) -> None:
        super().__init__(home, simulate=False, database=database)
        self.size, self.users = size, users
        self.rounds: list[dict[str, float]] = []

    def _prepare_data(self) -> None:
        once_per_environment.forget_all()
        os.environ.update(self.environment)
        upgrade()
        with engine().begin() as connection:
            fill(connection, self.size, self.users)
        if engine().dialect.name == "postgresql":
            with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE"))
        super()._prepare_data()

    def _start_celery(self) -> None:
        self.start_celery("jobs", JOB_QUEUES, 100)
        self.submitter = subprocess.Popen(
            [sys.executable, "-c", SUBMIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **self.environment},
        )  # fmt: skip

    def stop(self) -> None:
        if hasattr(self, "submitter"):
            self.submitter.kill()
            self.submitter.wait()
        super().stop()

    def batch(self, count: int) -> float:
        """Seconds from the first submit to the last result."""
        assert self.submitter.stdin is not None
        assert self.submitter.stdout is not None
        self.submitter.stdin.write(json.dumps([count, self.users]) + "\n")
        self.submitter.stdin.flush()
        line = self.submitter.stdout.readline()
        if not line:
            raise SystemExit(f"growth: the submitter ended with status {self.submitter.wait()}")
        return float(line)

    def play(self, count: int, server: PostgresServer | None) -> None:
        """One batch, and what it cost whom."""
        pids = {
            "worker": self.pid("jobs"),
            "redis": self.pid("redis"),
            **({"postgresql": server.pid} if server else {}),
        }
        before = {name: proc.cpu_s(pid) for name, pid in pids.items()}
        seconds = self.batch(count)
        time.sleep(0.5)  # what is done after the answer is part of the job
        spent = {name: 1000 * (proc.cpu_s(pid) - before[name]) / count for name, pid in pids.items()}
        self.rounds.append({**spent, "all": sum(spent.values()), "jobs_per_second": count / seconds})

    def told(self) -> dict[str, Any]:
        """CPU milliseconds per job, and jobs a second."""
        medians = {name: statistics.median(one[name] for one in self.rounds) for name in self.rounds[0]}
        return {
            **{f"{name}_cpu_ms_per_job": round(medians[name], 2) for name in medians if name != "jobs_per_second"},
            "cpu_ms_per_job_of_rounds": [round(one["all"], 2) for one in self.rounds],
            "jobs_per_second": round(medians["jobs_per_second"], 1),
        }


@contextmanager
def arms_on(
    dialect: str, sizes: tuple[int, ...], users: dict[str, int]
) -> Iterator[tuple[list[Arm], PostgresServer | None]]:
    """An arm for each size and number of users; the environment is as before afterwards."""
    before = dict(os.environ)
    with ExitStack() as held:
        server = held.enter_context(postgres_server({"max_connections": "500"})) if dialect == "postgresql" else None
        arms = []
        for size in sizes:
            for number in users.values():
                folder = held.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                url = held.enter_context(database_on(server.url, f"jobs_{size}_{number}")) if server else None
                arms.append(held.enter_context(Arm(Path(folder), url, size, number)))
                once_per_environment.forget_all()
                os.environ.clear()
                os.environ.update(before)
                print(f"{dialect}: {size} jobs of {number} users are stored", file=sys.stderr, flush=True)
        yield arms, server


def measure(dialect: str, sizes: tuple[int, ...], users: dict[str, int], rounds: int, count: int) -> dict[str, Any]:
    """All sizes in turn, and how the largest compares with the smallest."""
    with arms_on(dialect, sizes, users) as (arms, server):
        for arm in arms:
            arm.batch(count)
        for number in range(rounds):
            # whoever begins is another one each time
            for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
                arm.play(count, server)
                print(dialect, arm.size, arm.users, arm.rounds[-1], file=sys.stderr, flush=True)
    report: dict[str, Any] = {}
    for name, number in users.items():
        told = {str(arm.size): arm.told() for arm in arms if arm.users == number}
        first, *_, last = told.values()
        ratio = last["all_cpu_ms_per_job"] / first["all_cpu_ms_per_job"]
        report[name] = {
            **told,
            "largest_to_smallest": round(ratio, 3),
            "flat": ratio <= FLAT,
        }
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=300, help="jobs of a batch")
    parser.add_argument("--short", action="store_true", help="SQLite and few jobs, to see that it works")
    options = parser.parse_args()
    sizes: tuple[int, ...] = SIZES
    users = USERS
    dialects = [options.database] if options.database else ["sqlite", "postgresql"]
    if options.short:
        sizes, users, dialects = (100, 1_000), {"1 user": 1}, ["sqlite"]
        options.rounds, options.jobs = 1, 20
    for name in ("DAILY_BUDGET_USD", "MONTHLY_BUDGET_USD", "MAX_COST_PER_USER_DAILY_USD"):
        os.environ[name] = "unlimited"
    with running(latency_s=LATENCY_S) as url:
        os.environ |= {
            "OPENAI_API_BASE": f"{url}/v1",
            "OPENAI_API_KEY": "simulated",
            "ANTHROPIC_API_BASE": url,
            "ANTHROPIC_API_KEY": "simulated",
        }
        report = {dialect: measure(dialect, sizes, users, options.rounds, options.jobs) for dialect in dialects}
    print(json.dumps({"jobs_of_a_batch": options.jobs, "rounds": options.rounds, **report}, indent=2))


if __name__ == "__main__":
    main()
