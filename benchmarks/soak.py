"""Whether a stack that works for long stays as it is: memory, connections, file descriptors and Redis keys while mixed
jobs come steadily, with some provider errors among them, a browser on the page and a scraper on the metrics.

Prints JSON. `--minutes` (30) at `--rate` jobs a second (20). The first third warms up. Of the rest, the slope of each
series is Theil and Sen's (the median of the slopes of all pairs of samples); it is flat if that makes less than 3 % of
the median in that time, or less than one megabyte, descriptor, connection or key. The slope of the last third is told
too, since it tells what levels off from what goes on. Keys of Redis that each job leaves until they lapse are told
apart from the rest."""

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import redis

from benchmarks import proc
from benchmarks.stage import Small
from tests.postgres import running_postgres

WATCHED = ("jobs", "maintenance", "beat", "api")
FLAT = 0.03
SAMPLES = 120
FAULTS = [
    {"fault": "status", "status": 429, "share": 0.005},
    {"fault": "status", "status": 500, "share": 0.005},
    {"fault": "reset", "share": 0.002},
    {"fault": "malformed", "share": 0.002},
    {"fault": "latency", "p50": 0.4, "p95": 1.2},
]
# what each job, and each user of a day, leaves in Redis until it lapses
LAPSING = ("{paymaster}:reservation", "{paymaster}:job", "celery-task-meta", "{paymaster}:user")
GROWING = ("redis_mb", *(f"keys_{name}" for name in LAPSING))
WORDS = "baker oven dough night bread shape knead roll starter salt rye flour shift porto patience crust"


def family(key: str) -> str:
    """What kind of key it is: its name without what tells it from others of its kind."""
    if key.startswith("celery-task-meta-"):
        return "celery-task-meta"
    return ":".join(key.split(":")[:2])


class Clients:
    """Whoever uses the stack: an application, one over HTTP, a browser and a scraper."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._source = random.Random(9)

    def _text(self, words: int) -> str:
        return " ".join(self._source.choices(WORDS.split(), k=words))

    def submit(self, number: int) -> None:
        """One job: of ten, five parse (one of them over HTTP), three generate, two embed."""
        from tasks import embed, generate, parse

        user, kind = number % 500, number % 10
        if kind == 0:
            self.ask("POST", "/api/v1/jobs/parse/", {"job_description": self._text(300), "user_id": user})
        elif kind < 5:
            parse.delay(job_description=self._text(self._source.randint(50, 1200)), user_id=user, api="keywords")
        elif kind < 8:
            artifacts = [{"type": "experience", "title": self._text(3)}] * (number % 7)
            generate.delay(job_data={"raw_job_description": self._text(400)}, artifacts=artifacts, user_id=user)
        else:
            embed.delay(texts=[self._text(30) for _ in range(5)], user_id=user)

    def ask(self, method: str, path: str, body: Any = None) -> None:
        """One request on a connection of its own; an error answer raises."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data=data, headers=headers, method=method)
        urllib.request.urlopen(request, timeout=60).read()


def sample(stack: Small, client: redis.Redis, database: str | None) -> dict[str, float]:
    """All figures of this moment, by name."""
    found: dict[str, float] = {}
    for name in WATCHED:
        pid = stack.pid(name)
        found |= {f"{name}_{kind}_mb": round(value, 1) for kind, value in proc.memory_mb(pid).items()}
        found |= {f"{name}_descriptors": proc.descriptors(pid), f"{name}_threads": proc.threads(pid)}
    found["redis_clients"] = client.info("clients")["connected_clients"]
    found["redis_mb"] = round(client.info("memory")["used_memory"] / 2**20, 2)
    families = Counter(family(key) for key in client.scan_iter(count=5000))
    found |= {f"keys_{name}": families[name] for name in LAPSING}
    found["keys_other"] = families.total() - sum(families[name] for name in LAPSING)
    found["messages_waiting"] = sum(client.llen(queue) for queue in ("parse", "generate", "generate-premium", "embed"))
    if database is not None:
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE client_port IS NOT NULL")
            found["sql_connections"] = (row.fetchone() or (0,))[0]
    return found


def slope(times: list[float], values: list[float]) -> float:
    """Theil and Sen's: what a few odd samples do not move. Per unit of time."""
    pairs = itertools.combinations(zip(times, values, strict=True), 2)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)


def judged(minutes: list[float], values: list[float], rate: float) -> dict[str, Any]:
    """Slopes after the warm-up, and whether that is flat."""
    third = len(values) // 3
    late, last = slice(third, None), slice(2 * third, None)
    per_hour = 60 * slope(minutes[late], values[late])
    middle = statistics.median(values[late])
    drift = per_hour / 60 * (minutes[-1] - minutes[third])
    return {
        "median": round(middle, 2),
        "slope_per_hour": round(per_hour, 3),
        "slope_per_hour_of_the_last_third": round(60 * slope(minutes[last], values[last]), 3),
        "slope_per_1000_jobs": round(per_hour / (3.6 * rate), 4),
        "flat": abs(drift) < max(FLAT * middle, 1),
    }


def left_by_jobs(client: redis.Redis, jobs: int) -> dict[str, Any]:
    """What is in Redis at the end: keys, bytes of one (the mean of some) and hours until it lapses, by kind."""
    keys: dict[str, list[str]] = {}
    for key in client.scan_iter(count=5000):
        keys.setdefault(family(key), []).append(key)
    told = {}
    for name, found in sorted(keys.items()):
        some = random.Random(0).sample(found, min(200, len(found)))
        size = statistics.fmean(client.memory_usage(key) or 0 for key in some)
        ttl = statistics.median(client.ttl(key) for key in some)
        told[name] = {
            "keys": len(found),
            "bytes_of_one": round(size),
            "bytes_per_job": round(size * len(found) / jobs, 1),
            "lapses_within_hours": round(ttl / 3600, 2) if ttl >= 0 else None,
        }
    return told


def soak(stack: Small, minutes: float, rate: float, database: str | None) -> dict[str, Any]:
    """Jobs at a steady rate, and samples meanwhile."""
    client: redis.Redis = redis.Redis.from_url(stack.environment["REDIS_URL"], decode_responses=True)
    clients, every = Clients(stack.environment["PAYMASTER_API"]), max(0.5, 60 * minutes / SAMPLES)
    for number in range(10):
        clients.submit(number)
    settled()  # the workers are up
    started, number, series = time.monotonic(), 0, []
    sampled, seen, scraped, late = 0.0, 0.0, 0.0, 0.0
    while (now := time.monotonic() - started) < 60 * minutes:
        if now >= sampled:
            series.append({"minutes": round(now / 60, 3), "jobs": number, **sample(stack, client, database)})
            sampled += every
            if len(series) % 10 == 1:
                print(json.dumps(series[-1]), file=sys.stderr, flush=True)
        if now >= seen:
            clients.ask("GET", "/")
            seen += 3
        if now >= scraped:
            clients.ask("GET", "/metrics")
            scraped += 15
        if now * rate > number:
            clients.submit(number)
            number += 1
            late = max(late, now - number / rate)
        else:
            time.sleep(max(0, number / rate - now))
    stack.check()
    columns = {name: [row[name] for row in series] for name in series[0]}
    figures = [name for name in columns if name not in ("minutes", "jobs", *GROWING) and "_rss_" not in name]
    lines = {name: judged(columns["minutes"], columns[name], rate) for name in figures}
    left = left_by_jobs(client, number)
    return {
        "minutes": minutes,
        "jobs": number,
        "jobs_per_second": rate,
        "latest_submit_s": round(late, 1),
        "jobs_by_state": settled(),
        "flat": all(line["flat"] for line in lines.values()),
        "not_flat": [name for name, line in lines.items() if not line["flat"]],
        "judged": lines,
        "redis_bytes_per_job": round(slope(columns["jobs"], columns["redis_mb"]) * 2**20),
        "redis_at_the_end": left,
        "series": columns,
    }


def settled() -> dict[str, int]:
    """The states of all jobs, once those under way have ended or a minute has passed."""
    from sqlalchemy import func, select

    from db.models import Job, JobState
    from db.session import read

    for _ in range(120):
        with read() as session:
            states = {
                str(state): n for state, n in session.execute(select(Job.state, func.count()).group_by(Job.state))
            }
        if all(JobState(state).final for state in states):
            break
        time.sleep(0.5)
    return states


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=20, help="jobs a second")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--short", action="store_true", help="some seconds, to see that it works")
    options = parser.parse_args()
    if options.short:
        options.minutes, options.database = 0.1, "sqlite"
    for name in ("DAILY_BUDGET_USD", "MONTHLY_BUDGET_USD", "MAX_COST_PER_USER_DAILY_USD"):
        os.environ[name] = "100000"
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        url = held.enter_context(running_postgres({})) if options.database == "postgresql" else None
        stack = held.enter_context(Small(Path(folder), simulate=True, database=url))
        orders = json.dumps({"seed": 9, "rules": FAULTS}).encode()
        faults = stack.environment["PAYMASTER_SIMULATOR"] + "/faults"
        urllib.request.urlopen(urllib.request.Request(faults, data=orders, method="PUT")).read()
        print(json.dumps({"database": options.database, **soak(stack, options.minutes, options.rate, url)}))


if __name__ == "__main__":
    main()
