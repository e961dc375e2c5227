"""Workers that start in a fraction of a second: a process that has imported what is heavy forks one for each that is
asked for. Each is a real `celery` process in a group of its own; only its imports of other people's code are shared.

As a program it reads one JSON object a line, `{"argv", "environment", "log"}`, and writes `{"pid"}` for each and
`{"ended", "status"}` when one has ended. At the end of its input it kills what is left of them."""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000


class Child:
    """One process of the nursery's."""

    def __init__(self, name: str, pid: int, ended: dict[int, int]) -> None:
        self.name = name
        self.pid = pid
        self._ended = ended
        self.asked = False  # to end

    @property
    def status(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._ended.get(self.pid)

    def signal(self, number: int) -> None:
        if self.status is None:
            self.asked = True
            os.kill(self.pid, number)

    def wait(self, within_s: float) -> int | None:
        """Its status once it has ended, None if it has not within that time."""
        deadline = time.monotonic() + within_s
        while self.status is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.status

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait(10) is not None, f"{self.name} outlived SIGKILL"


class Nursery:
    """The nursery's other end."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.nursery"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._ended: dict[int, int] = {}
        self._born: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, name: str, argv: list[str], environment: dict[str, str], log: Path) -> Child:
        assert self._process.stdin is not None
        print(json.dumps({"argv": argv, "environment": environment, "log": str(log)}), file=self._process.stdin)
        self._process.stdin.flush()
        return Child(name, self._born.get(timeout=60), self._ended)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # it was closed
            for line in self._process.stdout:
                told = json.loads(line)
                if "pid" in told:
                    self._born.put(told["pid"])
                else:
                    self._ended[told["ended"]] = told["status"]


def _serve() -> None:
    children: set[int] = set()
    unread = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.05)
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            children.discard(ended[0])
            _tell(ended=ended[0], status=os.waitstatus_to_exitcode(ended[1]))
        if not ready:
            continue
        data = os.read(0, 65_536)
        if not data:
            break
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                _live(json.loads(line))
            children.add(pid)
            _tell(pid=pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _tell(**what: int) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _live(order: dict[str, Any]) -> None:
    from cli.stack import _die_with

    _die_with(os.getppid())
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    if network := os.environ.get("CHAOS_NETWORK"):
        _enter(network)
    sys.argv = ["celery", *order["argv"]]
    from celery.__main__ import main

    status = 1
    try:
        main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter(network: str) -> None:
    """Live in a network namespace of that name, with no way out but its own."""
    with open(f"/var/run/netns/{network}") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no way into the namespace {network}")


def main() -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # hardly anything of ours: that reads the environment, and each child has its own
    import aiohttp  # noqa: F401  # for all children at once
    import sqlalchemy.dialects.sqlite
    import sqlalchemy.orm  # noqa: F401  # the same

    # nothing of it depends on the environment
    from worker.gateway import warm_up
    from worker.tokens import encodings

    warm_up()
    encodings()
    assert threading.active_count() == 1, "a thread would not survive the fork"
    gc.collect()
    gc.freeze()
    _serve()


if __name__ == "__main__":
    main()
