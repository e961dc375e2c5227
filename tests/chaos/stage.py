"""Where a scenario is played: the embedded stack's servers, which stay, and for each scenario an empty database, an
empty Redis, an empty bill and workers of its own."""

import json
import os
import signal
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis
from sqlalchemy import func, select

from budget.ledger import ledger
from budget.rebuild import rebuild_if_cold
from cli.stack import Stack
from db.migrate import upgrade
from db.models import Job, JobState
from db.once import once_per_environment
from db.session import read
from tests.chaos.nursery import Child, Nursery
from tests.integration.conftest import point_celery_at
from worker.app import app
from worker.queues import QUEUES

JOB_QUEUES = ",".join(QUEUES[:-1])
POSTING = "A bakery in Porto looks for a night baker who can knead, shape and bake. Skills: dough, ovens, patience. "

# The short forms' times. Leases and patience are shorter, so that nobody waits for them; what they mean is the same.
HURRY = {
    "constants": {
        "LEASE_S": 5,
        "CLAIM_WITHIN_S": 3,
        "PATIENCE_S": 4,
        "RESERVATION_LEASE_S": 7,
        "OUTAGE_WAIT_S": 1.0,
    },
    "sweep_every_s": 1.0,
}


def wait_until(condition: Callable[[], object], within_s: float, every_s: float = 0.05) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


class Stage(Stack):
    """The servers of an embedded stack, with a nursery instead of its workers."""

    def __init__(self, home: Path, database: str | None = None) -> None:
        super().__init__(home, simulate=True, database=database)
        self._database = database
        self.root = self.home
        self.orders: dict[str, Any] = {}
        self.extra: dict[str, str] = {}
        self.children: list[Child] = []

    def __enter__(self) -> Self:
        self._before, self._broker_before = dict(os.environ), app.conf.broker_url
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        # the stack that other tests share may be up
        point_celery_at(self._broker_before)
        once_per_environment.forget_all()
        os.environ.clear()
        os.environ.update(self._before)

    def _start_celery(self) -> None:
        self.nursery = Nursery()

    def _prepare_data(self) -> None:
        point_celery_at(self.environment["REDIS_URL"])

    def stop(self) -> None:
        if hasattr(self, "nursery"):
            self.nursery.close()
        super().stop()

    # --- a scenario's beginning and end

    def fresh(self, name: str, orders: dict[str, Any], environment: dict[str, str]) -> None:
        """Forget all scenarios before this one."""
        self.home = self.root / name
        (self.home / "logs").mkdir(parents=True)
        self.orders, self.extra, self.children = orders, environment, []
        self.environment |= {
            "PAYMASTER_HOME": str(self.home),
            "DATABASE_URL": self._database or f"sqlite:///{self.home / 'paymaster.db'}",
        }
        os.environ.clear()
        os.environ.update(self._before | self.environment | environment)
        once_per_environment.forget_all()
        self.redis().flushall()
        self.ask("POST", "/reset")
        upgrade()
        rebuild_if_cold(ledger(), wait_s=0)

    def end_all(self) -> None:
        """Stop this scenario's processes."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        for child in self.children:
            if child.wait(20) is None:
                child.kill()

    def deserters(self) -> list[str]:
        """Processes that ended though nobody asked them to."""
        return [child.name for child in self.children if child.status is not None and not child.asked]

    def left(self) -> list[int]:
        """The processes that this scenario has left behind, by their environment."""
        mark = f"PAYMASTER_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0") and folder.name != str(os.getpid()):
                    found.append(int(folder.name))
            except OSError:
                continue
        servers = {self.nursery.pid, *(process.pid for process in self._processes.values())}
        return sorted(set(found) - servers)

    # --- processes

    def celery(self, name: str, *argv: str, environment: dict[str, str] | None = None, **orders: Any) -> Child:
        env = {**self._before, **self.environment, **self.extra, **(environment or {})}
        env["CHAOS"] = json.dumps(self.orders | orders)
        self.log_of(name).touch()
        child = self.nursery.start(name, ["-A", "tests.chaos.patched", *argv], env, self.log_of(name))
        child.asked = "kill_at" in orders
        self.children.append(child)
        return child

    def worker(self, name: str = "jobs", concurrency: int = 8, **orders: Any) -> Child:
        """A worker of all kinds of jobs."""
        number = len(self.children)
        return self.celery(
            f"{name}-{number}", "worker", "-Q", JOB_QUEUES, "-n", f"{name}{number}@%h", "-c", str(concurrency),
            "--loglevel", "INFO", "--without-mingle", "--without-gossip", **orders,
        )  # fmt: skip

    def maintain(self, beats: int = 1) -> None:
        """The sweeper and what wakes it."""
        self.celery("sweeper", "worker", "-Q", "maintenance", "-n", "sweeper@%h", "-c", "4", "--loglevel", "INFO")
        for number in range(beats):
            self.celery(f"beat-{number}", "beat", "-s", str(self.home / f"beat-{number}"), "--loglevel", "INFO")

    # --- asking

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.environment["REDIS_URL"])

    @property
    def redis_port(self) -> int:
        return port_of(self.environment["REDIS_URL"])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = self.environment["PAYMASTER_SIMULATOR"] + path
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def faults(self, seed: int, *rules: dict[str, Any]) -> None:
        self.ask("PUT", "/faults", {"seed": seed, "rules": list(rules)})

    def count(self, *states: JobState) -> int:
        with read() as session:
            return session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(states))) or 0

    def requests(self) -> int:
        return int(self.ask("GET", "/requests")["requests"])

    # --- breaking

    @contextmanager
    def sql_stopped(self) -> Iterator[None]:
        """Nobody can write to SQL meanwhile."""
        connection = sqlite3.connect(self.home / "paymaster.db", timeout=60, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.close()

    @contextmanager
    def redis_killed(self) -> Iterator[None]:
        """Redis is gone meanwhile, and comes back empty; nobody else gets its port."""
        port = self.redis_port
        os.kill(self.pid("redis"), signal.SIGKILL)
        with socket.socket() as keeper:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            assert wait_until(lambda: _takes(keeper, port), 10)
            yield
        self.start_redis(port)
        assert wait_until(self._redis_answers, 20)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _takes(keeper: socket.socket, port: int) -> bool:
    try:
        keeper.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
