"""The simulator as a process of its own: it announces itself, serves, and ends cleanly; and it stands alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_url_serves_and_stops_on_a_signal(sim: Any, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "simulator", "--port", "0", "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        client = type(sim)(json.loads(process.stdout.readline())["url"])
        assert "gpt-4o" in client.send("GET", "/healthz").json["models"]
        assert client.chat("hi").status == 200
        client.fault(fault="hang", seconds=60)
        client.timeout = 0.3
        with pytest.raises(TimeoutError):
            client.chat("hi")
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_it_imports_nothing_that_it_judges() -> None:
    program = (
        "import sys, simulator.server as s; s.create_app(); "
        "judged = ('litellm', 'celery', 'worker', 'tasks', 'sqlalchemy', 'db.models', 'budget.ledger'); "
        "print([name for name in judged if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
