"""What the benches share: servers with workers of any kind beside them, and what a process and its children use."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
from celery import Celery

from cli.stack import Stack, StackError

READY_WITHIN_S = 120
POSTING = "We look for a baker. Skills: dough and ovens. " * 60  # 540 words, which balanced gives to gpt-4o


class Servers(Stack):
    """The Redis-protocol server, the simulator and the database; a bench starts its own workers."""

    def _start_celery(self) -> None:
        """None of those of `paymaster up`."""

    def start_worker_of(self, name: str, app: str, *options: str, environment: dict[str, str] | None = None) -> int:
        """Start a Celery worker of any app; returns its pid. `wait_for_workers` waits until it takes messages."""
        command = (sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@bench")
        return self.start(name, *command, "--without-mingle", "--without-gossip", *options, environment=environment)

    def wait_for_workers(self, broker: str, *names: str) -> None:
        """Return once all of these answer over their broker, which they do when they take messages."""
        nodes, deadline = {f"{name}@bench" for name in names}, time.monotonic() + READY_WITHIN_S
        with Celery(broker=broker, set_as_current=False) as asking:
            while nodes:
                self.check()
                if time.monotonic() > deadline:
                    raise StackError(f"{sorted(nodes)} did not answer within {READY_WITHIN_S} s; logs: {self.home}")
                for answer in asking.control.ping(destination=sorted(nodes), timeout=0.3) or ():
                    nodes -= set(answer)

    def ask(self, path: str, method: str = "GET", body: object = None) -> dict[str, Any]:
        """What the simulator says."""
        url, sent = self.environment["PAYMASTER_SIMULATOR"] + path, None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data=sent, method=method), timeout=60) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def set_latency(self, seconds: float) -> None:
        """How long the simulated providers take for an answer; all they have counted begins anew."""
        self.ask("/reset", "POST")
        self.ask("/faults", "PUT", {"rules": [{"fault": "latency", "seconds": seconds}]})

    def requests(self) -> int:
        """How many requests have reached the simulated providers since then."""
        return int(self.ask("/requests")["requests"])


def family(pid: int) -> Iterator[psutil.Process]:
    """The process and those it has started, and so on."""
    process = psutil.Process(pid)
    yield process
    yield from process.children(recursive=True)


def cpu_s(pid: int) -> float:
    """CPU seconds so far, user and system, of a process and all its children, ended ones included."""
    return sum(sum(process.cpu_times()[:4]) for process in family(pid))


def memory_mb(pid: int) -> float:
    """Megabytes in memory of a process and its children; what several share is counted once (PSS)."""
    return float(sum(process.memory_full_info().pss for process in family(pid))) / 2**20
