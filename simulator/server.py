"""The simulator's HTTP server: all routes, and three ways to run it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from aiohttp import web

from simulator import tokens
from simulator.catalogue import Catalogue, from_registry
from simulator.engine import PATHS, Simulator

# A larger request is refused with 413 (bytes).
MAX_BODY = 64 << 20
# How long a stopping server waits for answers under way (seconds).
SHUTDOWN_S = 0.5


def create_app(*, catalogue: Catalogue | None = None, latency_s: float = 0.0, seed: int = 0) -> web.Application:
    """The simulator as an application; `latency_s` seconds before every answer, the registry's models."""
    simulator = Simulator(catalogue or from_registry(), latency_s, seed)
    tokens.warm({model.encoding for model in simulator.catalogue.models})
    app = web.Application(client_max_size=MAX_BODY)
    for path, endpoint in PATHS.items():
        app.router.add_post(path, partial(simulator.serve, endpoint))
    app.router.add_get("/bill", simulator.get_bill)
    app.router.add_get("/requests", simulator.get_requests)
    app.router.add_get("/faults", simulator.get_faults)
    app.router.add_put("/faults", simulator.put_faults)
    app.router.add_delete("/faults", simulator.delete_faults)
    app.router.add_post("/reset", simulator.post_reset)
    app.router.add_get("/healthz", simulator.healthz)
    return app


async def _serve(
    app: web.Application,
    host: str,
    port: int,
    ready: Callable[[str], None] | None,
    stopped: Callable[[], Awaitable[object]],
) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=4096).start()
        bound = runner.addresses[0][1]
        if ready is not None:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
        await stopped()
    finally:
        await runner.cleanup()


def run(
    host: str,
    port: int,
    *,
    ready: Callable[[str], None] | None = None,
    latency_s: float = 0.0,
    seed: int = 0,
) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one; `ready` gets the base URL once listening."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(create_app(latency_s=latency_s, seed=seed), host, port, ready, stop.wait)

    asyncio.run(main())


@contextmanager
def running(*, catalogue: Catalogue | None = None, latency_s: float = 0.0, seed: int = 0) -> Iterator[str]:
    """A simulator on a thread of this process, on a free loopback port; gives its base URL."""
    started = threading.Event()
    urls: list[str] = []
    stop = asyncio.Event()
    app = create_app(catalogue=catalogue, latency_s=latency_s, seed=seed)
    # A runner cancels what still hangs when it closes.
    runner = asyncio.Runner()

    def announce(url: str) -> None:
        urls.append(url)
        started.set()

    def serve() -> None:
        try:
            with runner:
                runner.run(_serve(app, "127.0.0.1", 0, announce, stop.wait))
        finally:
            started.set()

    thread = threading.Thread(target=serve, name="simulator", daemon=True)
    thread.start()
    started.wait()
    if not urls:
        raise RuntimeError("the simulator did not start; its thread's error is on stderr")
    try:
        yield urls[0]
    finally:
        runner.get_loop().call_soon_threadsafe(stop.set)
        thread.join()
