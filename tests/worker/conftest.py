"""The life of an attempt without Celery: a real ledger, real SQL, real litellm and a real simulator over HTTP."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from budget.ledger import Ledger
from simulator.server import running
from tests.integration.conftest import point_celery_at
from tests.worker.recorder import recorder  # noqa: F401  # a fixture
from worker.app import app
from worker.gateway import warm_up


class Simulator:
    """A client of the simulator's control routes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def bill(self) -> int:
        """What was billed, nano-USD."""
        return int(self._ask("GET", "/bill")["cost_nano"])

    def requests(self) -> int:
        """HTTP requests that reached a provider's route."""
        return int(self._ask("GET", "/requests")["requests"])

    def fault(self, **rule: Any) -> None:
        """From now on this goes wrong."""
        self._ask("PUT", "/faults", {"seed": 1, "rules": [rule]})

    def reset(self) -> None:
        self._ask("DELETE", "/faults")
        self._ask("POST", "/reset")


@pytest.fixture(scope="session")
def simulator_url() -> Iterator[str]:
    # the first import of litellm takes longer than some tests give a call
    warm_up()
    with running() as url:
        yield url


@pytest.fixture
def simulator(simulator_url: str, warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """The simulator with an empty bill and no faults; both providers point at it."""
    monkeypatch.setenv("OPENAI_API_BASE", f"{simulator_url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("ANTHROPIC_API_BASE", simulator_url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "simulated")
    made = Simulator(simulator_url)
    made.reset()
    return made


class Broker:
    """The real server as the broker of this process' Celery app, and what was published to it."""

    def __init__(self, url: str) -> None:
        self.app = app
        self.client = redis.Redis.from_url(url)

    @property
    def messages(self) -> list[tuple[str, str]]:
        """(queue, job id), oldest first within a queue."""
        return [
            (queue, json.loads(message)["headers"]["id"])
            for queue in ("parse", "generate", "generate-premium", "embed")
            for message in reversed(self.client.lrange(queue, 0, -1))
        ]


@pytest.fixture
def published(simulator: Simulator, redis_server: str) -> Iterator[Broker]:
    """Messages go to the real server, and nobody takes them."""
    before = app.conf.broker_url
    point_celery_at(redis_server)
    app.conf.result_backend = "disabled://"  # nobody waits
    app.loader.import_default_modules()
    broker = Broker(redis_server)
    yield broker
    broker.client.close()
    point_celery_at(before)


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where outcomes wait for SQL, which is asked again at once."""
    monkeypatch.setattr("worker.closing.OUTAGE_PAUSE_S", 0.01)
    app.loader.import_default_modules()
    return tmp_path / "spool"
