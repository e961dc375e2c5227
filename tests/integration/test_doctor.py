"""`paymaster doctor` on a stack where all is well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(150)]


def test_it_finds_nothing_wrong_with_a_healthy_stack(quiet: RunningStack) -> None:
    def look() -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "doctor", "--json"], capture_output=True, text=True, check=False,
            cwd=Path(__file__).parents[2], env={**os.environ, **quiet.stack.environment},
        )  # fmt: skip
        told = json.loads(done.stdout)
        # what other tests left: calls of unknown cost
        alarms = [one for one in told["findings"] if one["level"] in ("warning", "error") and one["subject"] != "costs"]
        looked.append((alarms, {one["subject"] for one in told["findings"] if one["level"] == "ok"}))
        return told

    looked: list[tuple[list[object], set[str]]] = []
    # the first sweep, and machines under load
    wait_until(lambda: look() and not looked[-1][0], 60)
    assert looked[-1][1] >= {"settings", "keys", "redis", "ledger", "clock", "beat", "database", "broker", "workers",
                             "disk"}  # fmt: skip
