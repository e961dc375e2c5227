"""What submitting over HTTP costs: `POST jobs/parse/` beside the same server answering a bare 202, in one run.

Prints JSON: requests a second and milliseconds per request, with so many clients at once, each on a connection of its
own. Clients and server share the machine. The bare 202 passes the same server, guard and router, and does nothing."""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from cli.stack import Stack

CLIENTS = 8
ROUNDS = 5
REQUESTS = 50  # of one client in a round
POSTING = "We look for a baker. Skills: dough and ovens. " * 60

SERVE = """
import sys
from starlette.responses import Response
import api.serve as serve
from api.app import create_app
from api.reading import Body
app = create_app()
@app.post("/bare/")
async def bare(body: Body) -> Response:
    return Response(b"{}", 202, media_type="application/json")
with serve.listen("127.0.0.1", 0) as listening:
    print('{"url": "http://127.0.0.1:%d"}' % listening.getsockname()[1], flush=True)
    serve.server_of(app).run(sockets=[listening])
"""


class ApiOnly(Stack):
    """The servers and the API; the messages stay in their queues."""

    def _start_celery(self) -> None:
        self.start("api", sys.executable, "-c", SERVE)
        self.environment["PAYMASTER_API"] = str(self._wait("api", lambda: self._url_of("api")))


def one_client(address: str, path: str, requests: int) -> list[float]:
    """Milliseconds of each of its requests."""
    url, body, times = urlsplit(address), json.dumps({"job_description": POSTING, "user_id": 1}), []
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append(1000 * (time.perf_counter() - started))
        if answer.status != 202:
            raise SystemExit(f"{path} answered {answer.status}")
    connection.close()
    return times


def one_round(address: str, path: str, clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second of all clients together, and the milliseconds of each request."""
    with ThreadPoolExecutor(clients) as threads:
        started = time.perf_counter()
        every = threads.map(lambda _: one_client(address, path, requests), range(clients))
        times = [time for one in every for time in one]
        return len(times) / (time.perf_counter() - started), times


def measure(address: str, clients: int, rounds: int, requests: int) -> dict[str, dict[str, float]]:
    """Both ways in turn, round by round; the first round is not counted."""
    paths = {"submit": "/api/v1/jobs/parse/", "bare": "/bare/"}
    rates: dict[str, list[float]] = {name: [] for name in paths}
    times: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, path in paths.items():
            rate, each = one_round(address, path, clients, requests)
            if number:
                rates[name].append(rate)
                times[name] += each
    told = {
        name: {
            "requests_per_second": round(statistics.median(rates[name]), 1),
            "median_ms": round(statistics.median(times[name]), 2),
            "p99_ms": round(statistics.quantiles(times[name], n=100)[-1], 2),
        }
        for name in paths
    }
    ratio = told["bare"]["requests_per_second"] / told["submit"]["requests_per_second"]
    return {**told, "ratio": {"bare_to_submit": round(ratio, 2)}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few requests: whether it works")
    amounts = (1, 5) if parser.parse_args().short else (ROUNDS, REQUESTS)
    with tempfile.TemporaryDirectory() as folder, ApiOnly(Path(folder), simulate=False) as stack:
        address = stack.environment["PAYMASTER_API"]
        clients = {"one_client": 1, f"{CLIENTS}_clients": CLIENTS}
        print(json.dumps({name: measure(address, number, *amounts) for name, number in clients.items()}, indent=2))


if __name__ == "__main__":
    main()
