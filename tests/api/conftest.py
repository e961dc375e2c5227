"""The API in this process: real SQL, a real ledger and a real broker that nobody takes messages from."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import func, select

from api.access import make_token
from api.app import create_app
from api.serve import listen, server_of
from api.settings import Role
from budget.ledger import Ledger
from db.models import Job
from db.once import once_per_environment
from db.session import read
from tests.integration.conftest import point_celery_at
from worker.app import app as celery_app

POSTING = "We look for a baker. Skills: dough, ovens, patience. " * 40


@pytest.fixture
def broker(warm_ledger: Ledger, redis_server: str) -> Iterator[redis.Redis]:
    """The broker of this process."""
    before = celery_app.conf.broker_url
    point_celery_at(redis_server)
    celery_app.loader.import_default_modules()
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        yield client
    point_celery_at(before)


def messages(client: redis.Redis) -> list[tuple[str, str]]:
    """(queue, job id) of what was published."""
    return [
        (queue, json.loads(message)["headers"]["id"])
        for queue in ("parse", "generate", "generate-premium", "embed")
        for message in reversed(client.lrange(queue, 0, -1))
    ]


@pytest.fixture
def api(broker: redis.Redis) -> Iterator[httpx.Client]:
    """A client of the API, without tokens."""
    with serving() as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@contextmanager
def serving() -> Iterator[str]:
    """The API on a thread of this process, on real HTTP; gives its URL."""
    server = server_of(create_app())
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Tokens:
    """An API with tokens, and a header for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = {
            "submitter": make_token("shop", [Role.SUBMIT], None),
            "reader": make_token("board", [Role.READ], None),
            "admin": make_token("ops", [Role.ADMIN], None),
            "bound": make_token("app", [Role.SUBMIT, Role.READ], "42"),
            "bound_admin": make_token("tenant", [Role.ADMIN], "42"),
        }
        self.headers = {name: {"Authorization": f"Bearer {token}"} for name, (token, _) in made.items()}
        monkeypatch.setenv("API_TOKENS", ", ".join(entry for _, entry in made.values()))
        once_per_environment.forget_all()


@pytest.fixture
def tokens(broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    return Tokens(monkeypatch)


def jobs() -> int:
    with read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def job(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that a refusal is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["type"].startswith("urn:problem-type:paymaster:")
    assert told["title"] and told["detail"]
    return told
