"""A ledger on each server that its scripts must run on, and the tools to look at what it wrote."""

import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import fakeredis
import pytest
import redis

from budget.connection import connect
from budget.ledger import Ledger
from budget.scopes import WARM
from budget.settings import BudgetSettings

WIDE: dict[str, Any] = {
    "daily_budget_usd": "1000",
    "monthly_budget_usd": "1000",
    "max_cost_per_user_daily_usd": "1000",
    "budget_timezone": "UTC",
}


def usd(nano: int) -> str:
    """A limit of so many nano-USD, as the environment spells it."""
    return format(Decimal(nano).scaleb(-9), "f")


def warm(client: redis.Redis, zone: str = "UTC") -> None:
    """Write the marker as a rebuild does; connections drop any that bears another server's id."""
    fake = isinstance(client, fakeredis.FakeRedis)
    client.hset(WARM, mapping={"server": "" if fake else client.info("server")["run_id"], "zone": zone, "version": 0})


@pytest.fixture
def real_client(redis_server: str) -> Iterator[redis.Redis]:
    """A client of this process' real server, which is empty."""
    client = connect(redis_server)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(params=["real", "fake"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    """An empty Redis: the real server, and fakeredis with Lua in this process."""
    if request.param == "real":
        found: redis.Redis = request.getfixturevalue("real_client")
        return found
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def make_ledger(client: redis.Redis) -> Callable[..., Ledger]:
    """A warm ledger with wide limits, except those that are given."""

    def make(**limits: Any) -> Ledger:
        warm(client)
        return Ledger(client, BudgetSettings(**{**WIDE, **limits}))

    return make


def hold(ledger: Ledger, attempt: str = "a1", amount: int = 100, **more: Any) -> Any:
    """Reserve as an attempt of a job with all four scopes does."""
    scopes: dict[str, Any] = {"job_id": "j1", "user_id": "u1", "job_cap": 10**12, "lease_s": 60, **more}
    return ledger.reserve(attempt, amount, **scopes)


def dump(client: redis.Redis) -> dict[str, Any]:
    """Everything that the server holds, and which keys will go by themselves."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": client.get,
        "hash": client.hgetall,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
    }
    keys: Any = client.keys("*")
    found: dict[str, Any] = {}
    for key in sorted(keys):
        kind: Any = client.type(key)
        found[key] = (kind, readers[kind](key), client.ttl(key) >= 0)
    return found


def counters(client: redis.Redis) -> dict[str, tuple[int, int]]:
    """(spent, reserved) of every scope."""
    found: dict[str, tuple[int, int]] = {}
    for key, (kind, content, _) in dump(client).items():
        if kind == "hash" and ":reservation:" not in key and key != WARM:
            found[key] = (int(content.get("spent", 0)), int(content.get("reserved", 0)))
    return found


# what only the ledger's scripts, by their hash or their text, have in them
SCRIPTS = (b"EVALSHA", b"#KEYS", b"unpack(ARGV")


class _Relay(socketserver.BaseRequestHandler):
    """Passes bytes on in both directions. Of a script that is to be lost, the request arrives and the reply does not:
    the connection is closed instead."""

    server: "Relay"

    def handle(self) -> None:
        sent = b""
        with socket.create_connection(("127.0.0.1", self.server.behind)) as upstream, suppress(OSError):
            while True:
                for ready in select.select([self.request, upstream], [], [])[0]:
                    if not (data := ready.recv(1 << 20)):
                        return
                    if ready is self.request:
                        sent += data
                        upstream.sendall(data)
                        continue
                    ran = any(mark in sent for mark in SCRIPTS) and b"LOAD" not in sent and b"NOSCRIPT" not in data
                    sent = b""
                    self.server.scripts += ran
                    if ran and self.server.lose:
                        self.server.lose -= 1
                        return
                    self.request.sendall(data)


class Relay(socketserver.ThreadingTCPServer):
    """A server's neighbour that loses the next `lose` replies to scripts, and counts them all."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.behind, self.lose, self.scripts = behind, 0, 0


@pytest.fixture
def relay(redis_server: str) -> Iterator[Relay]:
    with Relay(int(redis_server.rpartition(":")[2].partition("/")[0])) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
