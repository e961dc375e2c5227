"""What the contenders of `benchmarks.overshoot` share: Redis, the provider simulator with its bill, the rounds that are
played there, and ours."""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from kombu.exceptions import OperationalError
from sqlalchemy import func, select

from benchmarks.stage import JOB_QUEUES, Small
from cli.stack import Stack

PROCESSES = 4
LATENCY_S = 0.5
ROUND_WITHIN_S = 900
# under 200 words it is a posting for gpt-4o-mini, above for gpt-4o
LONG = "We look for a baker who can knead, shape and bake. Skills: dough, ovens, patience. " * 20
SHORT = LONG[: len(LONG) // 4]
Event = Literal["kill", "flush", "restart"]


@dataclass(frozen=True)
class Scenario:
    """How the calls are made: so many at a time in each process, and what happens once the provider has had `at`
    requests. With `fallback` the first model fails and the second one costs more."""

    what: str
    in_flight: int
    event: Event | None = None
    at: int = 30
    fallback: bool = False

    @property
    def models(self) -> tuple[str, str | None]:
        return ("gpt-4o-mini", "gpt-4o") if self.fallback else ("gpt-4o", None)

    @property
    def posting(self) -> str:
        return SHORT if self.fallback else LONG

    @property
    def faults(self) -> list[dict[str, Any]]:
        fails = [{"model": self.models[0], "fault": "status", "status": 500}] if self.fallback else []
        return [{"fault": "latency", "seconds": LATENCY_S}, *fails]


@dataclass(frozen=True)
class Played:
    """What a round came to, in nano-USD and calls."""

    budget: int
    billed: int
    served: int
    calls: int


def wait_until(
    what: str, condition: Callable[[], object], within_s: float = ROUND_WITHIN_S, every_s: float = 0.02
) -> None:
    """Wait for it; give up with what it was."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"overshoot: {what}: not within {within_s:.0f} s")
        time.sleep(every_s)


class Ground(Stack):
    """Redis and the simulator."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, simulate=True)

    def _start_celery(self) -> None:
        """Whoever plays here starts its own processes."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the simulator itself."""
        data = None if body is None else json.dumps(body).encode()
        url = self.environment["PAYMASTER_SIMULATOR"] + path
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def billed(self) -> int:
        """nano-USD that the provider has billed so far."""
        return int(self.ask("GET", "/bill")["cost_nano"])

    def requests(self) -> int:
        """Requests that have reached the provider."""
        return int(self.ask("GET", "/requests")["requests"])

    def faults(self, rules: list[dict[str, Any]]) -> None:
        """Which requests go wrong from now on."""
        self.ask("PUT", "/faults", {"seed": 1, "rules": rules})

    @property
    def redis_port(self) -> int:
        return int(self.environment["REDIS_URL"].rpartition(":")[2].partition("/")[0])

    def redis(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis.from_url(self.environment["REDIS_URL"])

    def empty_redis(self, event: Event) -> None:
        """All its keys are gone, by a command or by a restart."""
        if event == "flush":
            self.redis().flushall()
            return
        os.kill(self.pid("redis"), signal.SIGKILL)
        self.start_redis(self.redis_port)
        wait_until("Redis answers", self._redis_answers, 30)


class Ours(Ground, Small):
    """Real worker processes, one for maintenance, and beat. The jobs say `reject`: what has no room is not downgraded
    to a cheaper model, and does not wait."""

    def _start_celery(self) -> None:
        self.start_celery("maintenance", "maintenance", 8)
        self.start("beat", sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "beat")
        self.workers: list[str] = []

    def takes_part(self, scenario: Scenario) -> bool:
        """In all."""
        return True

    def prepare(self, scenario: Scenario, processes: int) -> None:
        """Workers for this scenario's rounds, and what one of its calls costs."""
        self.end(self.workers)
        self.workers = [f"worker-{number}" for number in range(processes)]
        for name in self.workers:
            self.start_celery(name, JOB_QUEUES, scenario.in_flight)
        self.faults([])
        self.limit("unlimited")
        before = self.billed()
        self.submit(scenario, 1)
        self.price = self.billed() - before
        # each must have taken a job before the rounds begin
        wait_until("all workers answer", lambda: self.answering() >= processes + 1, 120)
        self.faults(scenario.faults)

    def answering(self) -> int:
        """How many workers there are; after a restart of Redis, the first question finds its old connection closed."""
        from worker.app import app

        with suppress(redis.RedisError, OperationalError):
            return len(app.control.ping(timeout=1.0) or [])
        return 0

    def limit(self, usd: str) -> None:
        """Set the day's budget."""
        from budget.limits import set_limit

        set_limit("daily", usd, "benchmark")

    def submit(self, scenario: Scenario, count: int, meanwhile: Callable[[], None] = lambda: None) -> int:
        """All at once, as far as the workers can see: they stand still until the last one is in the queue. How many
        succeeded."""
        from db.models import Job, JobState
        from db.session import read
        from tasks import parse

        for name in self.workers:
            os.kill(self.pid(name), signal.SIGSTOP)
        strategy = "experimental" if scenario.fallback else "balanced"
        ids = [
            parse.delay(job_description=scenario.posting, strategy=strategy, on_budget="reject").id
            for _ in range(count)
        ]
        for name in self.workers:
            os.kill(self.pid(name), signal.SIGCONT)
        meanwhile()

        def states() -> list[JobState]:
            with read() as session:
                query = select(Job.state, func.count()).where(Job.id.in_(ids)).group_by(Job.state)
                return [JobState(state) for state, number in session.execute(query) for _ in range(number)]

        wait_until("all jobs end", lambda: all(state.final for state in states()), every_s=0.3)
        return sum(state == JobState.SUCCEEDED for state in states())

    def play(self, scenario: Scenario, count: int, room: int) -> Played:
        """One round with room for so many calls. What earlier rounds spent stays spent: the limit is raised instead."""
        from budget.errors import LedgerError
        from budget.ledger import ledger
        from budget.money import nano_to_usd

        def is_calm() -> bool:
            try:
                return not ledger().usage()[0].reserved
            except LedgerError:
                return False

        wait_until("nothing is reserved", is_calm)
        budget = room * self.price
        self.limit(str(nano_to_usd(ledger().usage()[0].spent + budget)))
        billed, requests = self.billed(), self.requests()

        def happen() -> None:
            if scenario.event is None:
                return
            wait_until("calls are under way", lambda: self.requests() - requests >= scenario.at)
            if scenario.event == "kill":
                os.kill(self.pid(self.workers[0]), signal.SIGKILL)
                self.start_celery(self.workers[0], JOB_QUEUES, scenario.in_flight)
            else:
                self.empty_redis(scenario.event)

        served = self.submit(scenario, count, happen)
        return Played(budget, self.billed() - billed, served, count)
