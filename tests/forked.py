"""An embedded stack whose Celery processes are forked from one that has imported what is heavy, which takes a second of
CPU instead of five for each. tests/cli/test_command.py starts them as users do."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.stack import STOP_WITHIN_S, Stack
from tests.chaos.nursery import Child, Nursery

CELERY = ("-m", "celery")


class Forked:
    """A child of the nursery's, with what a stack asks of a `Popen`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.pid = child.pid
        self.send_signal = child.signal

    def poll(self) -> int | None:
        return self._child.status

    @property
    def returncode(self) -> int | None:
        return self._child.status

    def wait(self, timeout: float = 60) -> int:
        status = self._child.wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self._child.name, timeout)
        return status


class ForkedStack(Stack):
    """The nursery outlives it."""

    def __init__(self, home: Path, nursery: Nursery, **options: Any) -> None:
        super().__init__(home, **options)
        self._nursery = nursery

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> int:
        if command[1:3] != CELERY:
            return super().start(name, *command, environment=environment)
        if name in self._processes:
            self._processes[name].wait(STOP_WITHIN_S)
        self.log_of(name).touch()
        surroundings = {**os.environ, **self.environment, **(environment or {})}
        child = self._nursery.start(name, [*command[3:]], surroundings, self.log_of(name))
        self._processes[name] = Forked(child)
        return child.pid
