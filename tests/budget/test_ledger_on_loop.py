"""The ledger as jobs on an event loop use it: their calls travel together, and each gets its own answer, or its own
error; nothing is counted twice, and nobody trusts another server's counters."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from budget.connection import connect, connect_loop
from budget.errors import BudgetExceeded, LedgerCold, LedgerDown
from budget.ledger import Ledger
from budget.pipe import Pipe
from budget.scopes import WARM, reservation_key
from budget.settings import BudgetSettings
from db.models import CostBasis
from tests.budget.conftest import WIDE, Relay, counters, hold, usd, warm
from tests.on_loop import all_on_loop, on_loop

PRICE = 7

ENDS = {CostBasis.USAGE: 60, CostBasis.NOT_BILLED: 0, CostBasis.RESERVATION: 100}


MakeLedger = Callable[..., Ledger]


@pytest.fixture
def ledger_at() -> Iterator[MakeLedger]:
    """A ledger at a URL, with these limits."""
    made = []

    def make(url: str, pipe: Pipe | None = None, **limits: Any) -> Ledger:
        made.append(Ledger(connect(url), BudgetSettings(**{**WIDE, **limits}), pipe=pipe or connect_loop(url)))
        return made[-1]

    yield make
    for one in made:
        one.dispose()


@pytest.fixture
def on_server(ledger_at: MakeLedger, redis_server: str, real_client: redis.Redis) -> MakeLedger:
    """A ledger on the real server."""
    warm(real_client)
    return lambda **limits: ledger_at(redis_server, **limits)


def attempt(ledger: Ledger, number: int, price: int = PRICE) -> Callable[[], bool]:
    def reserve() -> bool:
        try:
            hold(ledger, f"a{number}", price)
        except BudgetExceeded:
            return False
        return True

    return reserve


@pytest.mark.parametrize("fit", [0, 37])
def test_exactly_as_many_of_100_jobs_get_through_as_fit(
    on_server: MakeLedger, real_client: redis.Redis, fit: int
) -> None:
    ledger = on_server(daily_budget_usd=usd(fit * PRICE + PRICE - 1))
    got = all_on_loop(*(attempt(ledger, number) for number in range(100)))
    assert sum(got) == fit
    # each got its own answer, and not its neighbour's
    held = [bool(real_client.exists(reservation_key(f"a{number}"))) for number in range(100)]
    assert held == got
    assert set(counters(real_client).values()) == ({(0, fit * PRICE)} if fit else set())


def test_calls_of_one_moment_take_few_round_trips(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    on_loop(lambda: hold(ledger, "connect"))
    before: Any = real_client.info("stats")["total_reads_processed"]
    all_on_loop(*(attempt(ledger, number) for number in range(100)))
    after: Any = real_client.info("stats")["total_reads_processed"]
    # the first goes alone, the others while it is under way; and the look itself
    assert after - before < 20
    assert set(counters(real_client).values()) == {(0, 100 + 100 * PRICE)}


@pytest.mark.parametrize("basis", ENDS)
def test_a_reply_lost_on_the_wire_is_asked_for_once_more_and_counted_once(
    ledger_at: MakeLedger,
    relay: Relay,
    real_client: redis.Redis,
    basis: CostBasis,
) -> None:
    warm(real_client)
    ledger = ledger_at(f"redis://127.0.0.1:{relay.server_address[1]}/0")
    relay.lose = 1
    held = on_loop(lambda: hold(ledger))
    # the first time by its digest, which the server may not know yet
    assert relay.scripts >= 2
    assert set(counters(real_client).values()) == {(0, 100)}
    relay.lose = 1
    on_loop(lambda: ledger.conclude("a1", held.scope_keys, basis, 60))
    assert set(counters(real_client).values()) == {(ENDS[basis], 0)}


def test_two_lost_replies_leave_the_ledger_down_for_all_of_the_moment_and_it_comes_back(
    ledger_at: MakeLedger,
    relay: Relay,
    real_client: redis.Redis,
) -> None:
    warm(real_client)
    ledger = ledger_at(f"redis://127.0.0.1:{relay.server_address[1]}/0")
    on_loop(lambda: hold(ledger))
    relay.lose = 1000

    def refused(number: int) -> Callable[[], bool]:
        def reserve() -> bool:
            with pytest.raises(LedgerDown):
                hold(ledger, f"a{number}")
            return True

        return reserve

    assert all(all_on_loop(*(refused(number) for number in range(20))))
    relay.lose = 0
    # some were counted, though nobody heard of it: asked again, none of them is counted twice
    all_on_loop(*(attempt(ledger, number, 100) for number in range(20)))
    assert set(counters(real_client).values()) == {(0, 2000)}


def test_a_server_that_forgot_the_scripts_is_told_them_again(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    real_client.script_flush()
    all_on_loop(*(attempt(ledger, number) for number in range(10)))
    real_client.script_flush()
    held = on_loop(lambda: hold(ledger, "a1", PRICE))
    on_loop(lambda: ledger.conclude("a1", held.scope_keys, CostBasis.USAGE, 5))
    assert set(counters(real_client).values()) == {(5, 9 * PRICE)}


def test_a_connection_that_the_server_closed_is_made_anew(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    on_loop(lambda: hold(ledger, "a1"))
    real_client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    on_loop(lambda: hold(ledger, "a2"))
    assert set(counters(real_client).values()) == {(0, 200)}


def test_counters_of_another_server_are_trusted_by_nobody(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    on_loop(lambda: hold(ledger, "a1"))
    real_client.hset(WARM, "server", "another")
    with pytest.raises(LedgerCold):
        on_loop(lambda: hold(ledger, "a2"))
    # who is told so connects anew, and a new connection drops the marker of another life
    with pytest.raises(LedgerCold):
        on_loop(lambda: hold(ledger, "a2"))
    assert not real_client.exists(WARM)
    assert not real_client.exists(reservation_key("a2"))


@pytest.mark.parametrize("where", [on_loop, lambda work: work()], ids=["loop", "thread"])
def test_a_server_that_became_a_replica_is_looked_for_anew(
    on_server: MakeLedger, real_client: redis.Redis, where: Callable[..., Any]
) -> None:
    def connections() -> set[str]:
        listed: Any = real_client.client_list()
        return {one["id"] for one in listed if one["cmd"].startswith("eval")}

    ledger = on_server()
    where(lambda: hold(ledger, "a1"))
    (old,) = connections()
    real_client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(LedgerDown, match="read only"):
            where(lambda: hold(ledger, "a2"))
    finally:
        real_client.execute_command("REPLICAOF", "NO", "ONE")
    where(lambda: hold(ledger, "a2"))
    assert old not in connections()


def test_an_evicting_server_is_refused(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    real_client.config_set("maxmemory", "100mb")
    real_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(LedgerDown, match=r"maxmemory-policy is allkeys-lru; the ledger needs noeviction"):
            on_loop(lambda: hold(ledger))
    finally:
        real_client.config_set("maxmemory-policy", "noeviction")
        real_client.config_set("maxmemory", "0")
    on_loop(lambda: hold(ledger))


def test_wrong_types_are_the_error_of_their_own_call_only(on_server: MakeLedger, real_client: redis.Redis) -> None:
    ledger = on_server()
    real_client.set(reservation_key("a5"), "no hash")

    def reserve(number: int) -> Callable[[], str]:
        def work() -> str:
            try:
                hold(ledger, f"a{number}", PRICE)
            except LedgerDown as down:
                return str(down)
            return "held"

        return work

    got = all_on_loop(*(reserve(number) for number in range(10)))
    assert [number for number, told in enumerate(got) if told != "held"] == [5]
    assert set(counters(real_client).values()) == {(0, 9 * PRICE)}


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def test_a_server_that_says_nothing_is_waited_for_once_by_all_of_the_moment(
    ledger_at: MakeLedger, silent_server: str
) -> None:
    ledger = ledger_at(silent_server, Pipe(silent_server, 0.05, decode_responses=True))

    def refused() -> str:
        with pytest.raises(LedgerDown, match=r"no answer within 0\.05 s"):
            hold(ledger)
        return "refused"

    assert all_on_loop(*[refused] * 20) == ["refused"] * 20


def test_a_connection_that_cannot_be_closed_keeps_nobody_waiting(
    ledger_at: MakeLedger, redis_server: str, real_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(real_client)
    pipe = connect_loop(redis_server)
    ledger = ledger_at(redis_server, pipe)
    on_loop(lambda: hold(ledger, "a1"))

    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr(pipe._connection, "disconnect", fails)
        broken.setattr(pipe._connection, "read_response", fails)
        with pytest.raises(LedgerDown, match="RuntimeError"):
            on_loop(lambda: hold(ledger, "a2"))
    on_loop(lambda: hold(ledger, "a2"))
    assert set(counters(real_client).values()) == {(0, 200)}


def test_a_server_that_is_not_there_leaves_the_ledger_down(ledger_at: MakeLedger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    ledger = ledger_at(gone)
    with pytest.raises(LedgerDown):
        on_loop(lambda: hold(ledger))
