"""What admission costs: a reserve and a settle of the ledger, beside bare pairs of calls on the same connections.

Prints JSON. A bare pair is two pipelines of four INCRBYs, one for each scope, or two single INCRBYs; neither knows a
limit. The kinds take turns in rounds, so that whatever else the machine does hits all; ratios are medians over rounds.
32 connections that never pause show how many pairs a second there can be; how long a call takes shows `paced`. Threads
measure their one interpreter, processes redis-py, and sockets, which send the same bytes without it, the server."""

import argparse
import json
import random
import selectors
import signal
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import redis

from budget.connection import connect
from budget.ledger import Ledger
from budget.scopes import OPEN, WARM, reservation_key
from budget.settings import BudgetSettings
from cli.stack import Stack

ROUNDS, ROUND_S, USERS, CALLS = 5, 0.6, 1000, 100  # calls of a script between two looks at the statistics
# processes, connections of each, pairs a second on each connection (0: as many as can be)
SCENARIOS = {
    "1 connection": (1, 1, 0),
    "32 connections, threads": (1, 32, 0),
    "32 connections, processes": (4, 8, 0),
    "32 connections, processes, paced": (4, 8, 25),
    "32 connections, sockets": (0, 32, 0),
}
KEPT = ("users", "open reservations", "settled attempts")
SIZES = (10, 1000, 100_000)
AMOUNT, COST = 20_000_000, 7_000_000
# Copies a key that the ledger wrote, with its expiry; given KEYS[2], each copy is an open reservation.
COPY = """
for i = 1, tonumber(ARGV[2]) do
    local copy = ARGV[1] .. string.format('%08d', i)
    redis.call('COPY', KEYS[1], copy)
    if KEYS[2] then redis.call('ZADD', KEYS[2], 4000000000 + i, copy) end
end
"""
ANSWERS = {"ledger": (b"\nreserved\r", b"\nsettled\r"), "four_incrby": (b":", b":")}  # what is in them
Times = list[tuple[float, float]]  # seconds of the two calls of each pair


class Server(Stack):
    """Only the Redis-protocol server."""

    def _prepare_data(self) -> None:
        """No database: `ledger_at` warms each ledger."""

    def _start_celery(self) -> None:
        """No workers."""


@cache
def ledger_at(url: str) -> Ledger:
    """This process' ledger there, warm as after a rebuild."""
    client = connect(url)
    client.hset(WARM, mapping={"server": client.info("server")["run_id"], "zone": "UTC", "version": 0})
    limits = dict.fromkeys(("daily_budget_usd", "monthly_budget_usd", "max_cost_per_user_daily_usd"), "9000000")
    return Ledger(client, BudgetSettings.model_validate({**limits, "budget_timezone": "UTC"}))


def reserve(ledger: Ledger, attempt: str, user: str) -> tuple[str, ...]:
    """Reserve for a job of one attempt, which all four scopes pay for; returns their keys."""
    return ledger.reserve(attempt, AMOUNT, job_id=attempt, user_id=user, job_cap=10**12, lease_s=300).scope_keys


def ledger_pair(ledger: Ledger, user: str) -> float:
    """An attempt. Like each kind of pair, it returns when it was between its two calls."""
    attempt = uuid.uuid4().hex
    scope_keys = reserve(ledger, attempt, user)
    between = time.perf_counter()
    ledger.settle(attempt, scope_keys, COST)
    return between


def four_incrby(ledger: Ledger, user: str) -> float:
    """A counter for each scope, by the worst case first and then to the cost."""
    keys = bare_keys(user, uuid.uuid4().hex)
    for amount in (AMOUNT, COST - AMOUNT):
        started = time.perf_counter()
        with ledger.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.incrby(key, amount)
            pipe.execute()
    return started


def one_incrby(ledger: Ledger, user: str) -> float:
    """One counter for all."""
    ledger.client.incrby("bare:all", AMOUNT)
    between = time.perf_counter()
    ledger.client.incrby("bare:all", COST - AMOUNT)
    return between


def bare_keys(user: str, job: str) -> tuple[str, ...]:
    return ("bare:day", "bare:month", f"bare:user:{user}", f"bare:job:{job}")


KINDS = {"ledger": ledger_pair, "four_incrby": four_incrby, "one_incrby": one_incrby}


def drive(url: str, kind: str, connections: int, pairs_per_s: float, begin: float) -> Times:
    """Pairs of one kind on so many connections of this process, each in a thread, for a round from `begin` on."""
    ledger, pair = ledger_at(url), KINDS[kind]
    pause = 1 / pairs_per_s if pairs_per_s else 0.0

    def loop(_: int) -> Times:
        times: Times = []
        due = begin + random.random() * pause
        while due < begin + ROUND_S:
            if (early := due - time.time()) > 0:
                time.sleep(early)
            started = time.perf_counter()
            between = pair(ledger, user_of(USERS))
            times.append((between - started, time.perf_counter() - between))
            due = due + pause if pause else time.time()
        return times

    with ThreadPoolExecutor(connections) as pool:
        return [pair for found in pool.map(loop, range(connections)) for pair in found]


def user_of(users: int) -> str:
    return f"{random.randint(1, users):08}"


def requests_of(ledger: Ledger, kind: str) -> Iterator[list[bytes]]:
    """The two requests of a pair as bytes, packed once; each pair has new ids in them."""
    attempt, user, sent = uuid.uuid4().hex, "somebody", []
    if kind == "ledger":
        send: Any = redis.Connection.send_packed_command

        def keep(connection: redis.Connection, command: list[bytes], *more: Any, **other: Any) -> Any:
            sent.append(b"".join(command))
            return send(connection, command, *more, **other)

        with patch.object(redis.Connection, "send_packed_command", keep):
            ledger.settle(attempt, reserve(ledger, attempt, user), COST)
        packed = [command for command in sent if b"EVALSHA" in command]
    else:
        calls = [[("INCRBY", key, by) for key in bare_keys(user, attempt)] for by in (AMOUNT, COST - AMOUNT)]
        connection: Any = ledger.client.connection_pool.make_connection()
        packed = [b"".join(connection.pack_commands(commands)) for commands in calls]
    while True:
        new = (uuid.uuid4().hex.encode(), user_of(USERS).encode())
        yield [request.replace(attempt.encode(), new[0]).replace(user.encode(), new[1]) for request in packed]


def talk(client: socket.socket, requests: Iterator[list[bytes]], kind: str, times: Times) -> Iterator[None]:
    """Pairs on one socket for a round; it yields whenever an answer has to be waited for."""
    end = time.perf_counter() + ROUND_S
    while time.perf_counter() < end:
        moments = []
        for request, right in zip(next(requests), ANSWERS[kind], strict=True):
            moments.append(time.perf_counter())
            client.sendall(request)
            yield
            if right not in (answer := client.recv(4096)):
                raise RuntimeError(f"the server answered {answer!r}")
        times.append((moments[1] - moments[0], time.perf_counter() - moments[1]))


def over_sockets(url: str, kind: str, connections: int) -> Times:
    """Pairs of one kind for a round, without redis-py."""
    times: Times = []
    requests, address = requests_of(ledger_at(url), kind), (urlsplit(url).hostname, urlsplit(url).port)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            client = stack.enter_context(socket.create_connection(address))
            selector.register(client, selectors.EVENT_READ, pairs := talk(client, requests, kind, times))
            next(pairs)
        while selector.get_map():
            for key, _ in selector.select():
                if next(key.data, "over") == "over":
                    selector.unregister(key.fileobj)
    return times


def measure(url: str, clients: list[ProcessPoolExecutor], scenarios: list[str], number: int) -> dict[str, Any]:
    """Rates, latencies and ratios of these scenarios."""
    client = ledger_at(url).client
    report: dict[str, dict[str, Any]] = {}
    for name in scenarios:
        processes, connections, pairs_per_s = SCENARIOS[name]
        kinds = list(KINDS if processes else ANSWERS)
        rounds: dict[str, list[tuple[Times, float]]] = {kind: [] for kind in kinds}
        for kind in kinds * (1 + number):
            client.config_resetstat()
            if processes:
                each = (url, kind, connections, pairs_per_s, time.time() + 0.02)
                waiting = [process.submit(drive, *each) for process in clients[:processes]]
                times = [pair for one in waiting for pair in one.result()]
            else:
                times = over_sockets(url, kind, connections)
            command = client.info("commandstats")["cmdstat_evalsha" if kind == "ledger" else "cmdstat_incrby"]
            rounds[kind].append((times, command["usec"] / len(times)))
        report[name] = {kind: summary(rounds[kind][1:]) for kind in kinds}  # the first round made connections
        if not pairs_per_s:
            for kind in kinds[1:]:
                both = list(zip(rounds["ledger"], rounds[kind], strict=True))[1:]
                ratio = statistics.median(len(ours[0]) / len(bare[0]) for ours, bare in both)
                report[name][f"ledger_to_{kind}"] = round(ratio, 2)
    return report


def summary(rounds: list[tuple[Times, float]]) -> dict[str, float]:
    """Of one kind: pairs a second, milliseconds of a pair and of each call, and microseconds of a pair in Redis."""
    found: dict[str, float] = {"pairs_per_s": round(statistics.median(len(times) for times, _ in rounds) / ROUND_S)}
    pairs = [(first + second, first, second) for times, _ in rounds for first, second in times]
    for name, seconds in zip(("pair", "first", "second"), zip(*pairs, strict=True), strict=True):
        cuts = statistics.quantiles(seconds, n=100)
        found |= {f"{name}_p50_ms": round(1000 * cuts[49], 2), f"{name}_p99_ms": round(1000 * cuts[98], 2)}
    return {**found, "in_redis_us": round(statistics.median(inside for _, inside in rounds), 1)}


def scripts(ledger: Ledger, users: int) -> dict[str, float]:
    """Microseconds inside Redis of a call of each script, one call after another."""
    held: dict[str, tuple[str, ...]] = {}

    def hold(attempt: str) -> None:
        held[attempt] = reserve(ledger, attempt, user_of(users))

    def inside(attempts: list[str], call: Callable[[str], object]) -> float:
        ledger.client.config_resetstat()
        for attempt in attempts:
            call(attempt)
        return float(ledger.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])

    first, second, third = ([uuid.uuid4().hex for _ in range(CALLS)] for _ in range(3))
    return {
        "reserve": statistics.median(inside(attempts, hold) for attempts in (first, second, third)),
        "extend": inside(first, lambda attempt: ledger.extend(attempt, 300)),
        "settle": inside(first, lambda attempt: ledger.settle(attempt, held[attempt], COST)),
        "release": inside(second, lambda attempt: ledger.release(attempt, held[attempt])),
        "expire": inside(third, lambda attempt: ledger.expire(attempt, held[attempt])),
        "correct": inside(third, lambda attempt: ledger.correct(attempt, held[attempt], COST)),
    }


def fill(ledger: Ledger, what: str, size: int) -> dict[str, int]:
    """Let the ledger write one, and copy it; returns the bytes of its key, and of a copy with its share of tables."""
    scope_keys = reserve(ledger, "0" * 32, "0" * 8)
    if what != "open reservations":
        ledger.settle("0" * 32, scope_keys, COST)
    key = scope_keys[2] if what == "users" else reservation_key("0" * 32)
    keys = [key, OPEN] if what == "open reservations" else [key]
    before = ledger.client.info("memory")["used_memory"]
    ledger.client.eval(COPY, len(keys), *keys, key[:-8], str(size))
    after = ledger.client.info("memory")["used_memory"]
    return {"key": int(ledger.client.memory_usage(key) or 0), "with_tables": round((after - before) / size)}


def growth(url: str, sizes: tuple[int, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """Bytes of what a ledger keeps, and how the microseconds inside Redis of each script change with its number, each
    in a database of its own; `ratio` is that of the largest number to the smallest."""
    cells = {cell: ledger_at(f"{url[:-1]}{number}") for number, cell in enumerate(product(KEPT, sizes), start=1)}
    filled = {what: fill(ledger, what, size) for (what, size), ledger in cells.items()}  # the largest size is the last
    report: dict[str, dict[str, Any]] = {what: {"bytes": each} for what, each in filled.items()}
    runs: dict[str, list[dict[int, dict[str, float]]]] = {what: [] for what in KEPT}
    for what in KEPT * rounds:
        users = {size: size if what == "users" else sizes[0] for size in sizes}
        runs[what].append({size: scripts(cells[what, size], users[size]) for size in sizes})
    for what, script in product(KEPT, runs[KEPT[0]][0][sizes[0]]):
        medians = {size: round(statistics.median(run[size][script] for run in runs[what]), 1) for size in sizes}
        ratio = statistics.median(run[sizes[-1]][script] / run[sizes[0]][script] for run in runs[what])
        report[what][f"{script}_us"] = {**medians, "ratio": round(ratio, 2)}
    return report


def main() -> None:
    """Start a server and the clients, measure, print, stop them: also on SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round of little: whether it works")
    few = parser.parse_args().short
    rounds, sizes, scenarios = (1, SIZES[:2], [*SCENARIOS][:1]) if few else (ROUNDS, SIZES, [*SCENARIOS])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(Server(home, simulate=False)).environment["REDIS_URL"]
        clients = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(4)]
        report = {"kept": growth(url, sizes, rounds), "pairs": measure(url, clients, scenarios, rounds)}
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
