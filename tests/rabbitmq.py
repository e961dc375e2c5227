"""A RabbitMQ server of the test run's own, if `rabbitmq-server` is installed: on loopback, with an empty folder, a port
mapper of its own (epmd would outlive it), stopped by its pids."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import amqp

from cli.stack import PR_SET_PDEATHSIG, free_port

START_WITHIN_S = 60
STOP_WITHIN_S = 20
# Debian's own starter runs the server as another user, in its own folder
PLACES = ("/usr/lib/rabbitmq/bin", *os.environ.get("PATH", "").split(os.pathsep))
NOT_INSTALLED = "rabbitmq-server is not installed (apt-get install rabbitmq-server)"


def program() -> str | None:
    """The server's program, or None if it is not installed."""
    return shutil.which("rabbitmq-server", path=os.pathsep.join(PLACES)) if shutil.which("epmd") else None


@contextmanager
def rabbitmq_server() -> Iterator[str]:
    """The URL of an empty server; stopped at the end, and nothing is left of it."""
    server, mapper = program(), shutil.which("epmd")
    assert server and mapper
    port, mapped = free_port(), str(free_port())
    with tempfile.TemporaryDirectory(prefix="rabbitmq-") as folder:
        home = Path(folder)
        (home / "plugins").write_text("[].")
        environment = {
            **os.environ,
            "HOME": folder,  # the cookie's place
            "ERL_EPMD_PORT": mapped, "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"paymaster{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia", "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid", "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }  # fmt: skip
        log = home / "out"
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.append(_start([mapper, "-port", mapped, "-address", "127.0.0.1"], environment, log))
            started.append(_start([server], environment, log))
            _wait(port, started[-1], log)
            yield f"amqp://guest:guest@127.0.0.1:{port}//"
        finally:
            for process in reversed(started):
                _stop(process)


def _start(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, cwd=log.parent, start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509  # as in cli/stack.py
        )  # fmt: skip


def _wait(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_WITHIN_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with amqp.Connection(f"127.0.0.1:{port}", connect_timeout=5):
                return
        except (OSError, amqp.AMQPError):
            time.sleep(0.1)
    raise RuntimeError(f"RabbitMQ did not start: {log.read_text()[-2000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_WITHIN_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


def _die_with(parent: int) -> None:
    """Linux stops the server even if we are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
