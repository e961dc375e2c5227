"""No prompt, posting, résumé or result text in messages, logs, events or Flower: markers are planted in every
field and looked for everywhere."""

import base64
import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.stack import free_port
from tasks import JobFailed, embed, generate, parse
from tests.integration.conftest import RunningStack, wait_until
from tests.integration.test_jobs import send_from_outside
from worker.app import app

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(150)]

MARKER = "xq7zmarker"
POSTING = f"The {MARKER} bakery looks for a night baker who knows {MARKER} dough. " * 30


@contextmanager
def monitor(url: str) -> Iterator[list[str]]:
    """Every command that reaches Redis meanwhile, but for the result backend's own keys: results travel there."""
    seen: list[str] = []
    stop = threading.Event()
    client = redis.Redis.from_url(url)

    def listen() -> None:
        with client.monitor() as commands:
            ready.set()
            for command in commands.listen():
                if "celery-task-meta-" not in command["command"]:
                    seen.append(command["command"])
                if stop.is_set():
                    return

    ready = threading.Event()
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    ready.wait(5)
    try:
        yield seen
    finally:
        stop.set()
        client.ping()
        thread.join(5)
        client.close()


@contextmanager
def flower(stack: RunningStack) -> Iterator[str]:
    port = free_port()
    stack.stack.start(
        "flower", sys.executable, "-m", "cli", "flower", "--port", str(port),
        environment={"FLOWER_BASIC_AUTH": "ops:secret"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: fetch(url, "/healthcheck") is not None, 30)
        wait_until(lambda: "parse@" in (fetch(url, "/workers?json=1") or ""), 30)
        yield url
    finally:
        stack.stack.end(["flower"])


def fetch(url: str, path: str) -> str | None:
    headers = {"Authorization": "Basic " + base64.b64encode(b"ops:secret").decode()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return None


def run_marked_jobs(stack: RunningStack, folder: Path) -> list[str]:
    """Jobs of every kind that succeed, fall back, fail and are sent broken, all full of markers."""
    ids = []
    for wait in (
        parse.delay(job_description=POSTING, company_name=MARKER, role_title=MARKER),
        generate.delay(job_data={"raw_job_description": POSTING}, artifacts=[{MARKER: MARKER}]),
        embed.delay(texts=[MARKER, POSTING]),
    ):
        assert MARKER in json.dumps(wait.get(timeout=30)) or wait.get()[0]["embedding"]
        ids.append(wait.id)
    stack.fault(fault="invalid_json")
    failing = parse.delay(job_description=POSTING)
    with pytest.raises(JobFailed) as failed:
        failing.get(timeout=60)
    assert MARKER not in str(failed.value)
    stack.ask("DELETE", "/faults")
    send_from_outside(stack, "tasks.parse", {"job_description": POSTING}, folder)
    told = send_from_outside(stack, "tasks.parse", {"job_description": POSTING, MARKER[:3]: MARKER}, folder)
    assert MARKER not in told["error"]
    return [*ids, failing.id, told["id"]]


def test_no_text_of_a_job_shows_up_anywhere(quiet: RunningStack, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with flower(quiet) as url, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        listening = threading.Thread(target=lambda: capture(receiver), daemon=True)
        listening.start()
        with monitor(quiet.stack.environment["REDIS_URL"]) as commands:
            ids = run_marked_jobs(quiet, tmp_path)
            time.sleep(1)
        receiver.should_stop = True
        pages = {path: fetch(url, path) for path in flower_pages(ids)}
    assert sum(event["type"] == "task-succeeded" for event in events) >= 3
    assert MARKER not in json.dumps(events, default=str)
    assert all(pages.values()), {path: page is None for path, page in pages.items()}
    assert [path for path, page in pages.items() if MARKER in (page or "")] == []
    logs = {file.name: file.read_text(errors="replace") for file in (quiet.stack.home / "logs").iterdir()}
    assert {"worker-parse.log", "beat.log", "redis.log", "flower.log"} <= set(logs)
    assert [name for name, text in logs.items() if MARKER in text] == []
    # the programs that know only the broker put their payloads into messages themselves: two of them
    carrying = [command for command in commands if MARKER in decoded(command)]
    assert commands
    assert {command.split()[0] for command in carrying} <= {"LPUSH", "HSET", "EVALSHA"}
    assert all(re.search(r"job_description|kwargs", decoded(command)) for command in carrying)
    assert len({job_id for job_id in ids[:4] if any(job_id in command for command in carrying)}) == 0


KEY = "sk-zqkeysentinel0123456789"


@pytest.fixture
def talkative(quiet: RunningStack) -> Iterator[RunningStack]:
    """The workers at their most talkative, with keys that can be told apart."""
    settings = {"LOG_LEVEL": "DEBUG", "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
    before = {name: quiet.stack.environment.get(name) for name in settings}
    restart_workers(quiet, settings)
    yield quiet
    for name in settings:
        quiet.stack.environment.pop(name)
    restart_workers(quiet, {name: value for name, value in before.items() if value is not None})


def restart_workers(stack: RunningStack, environment: dict[str, str]) -> None:
    queues = ("parse", "generate", "embed")
    before = {queue: stack.stack.log_of(f"worker-{queue}").read_text() for queue in queues}
    stack.stack.end([f"worker-{queue}" for queue in queues])
    stack.stack.environment |= environment
    for queue in queues:
        stack.stack.start_worker(queue)
    for queue, text in before.items():
        log = stack.stack.log_of(f"worker-{queue}")
        wait_until(lambda log=log, text=text: " ready." in log.read_text().removeprefix(text), 60)


def test_logs_at_debug_name_jobs_and_hold_neither_texts_nor_keys(talkative: RunningStack, tmp_path: Path) -> None:
    ids = run_marked_jobs(talkative, tmp_path)
    # a call that breaks off, and a broker's message that nobody can run
    talkative.fault(fault="reset", first=1)
    parse.delay(job_description=POSTING).get(timeout=60)
    with app.connection_for_write() as connection:
        connection.SimpleQueue("parse").put({"job_description": POSTING}, headers={"task": "tasks.unknown", "id": "1"})
    wait_until(lambda: "unregistered" in talkative.stack.log_of("worker-parse").read_text())
    logs = {file.name: file.read_text(errors="replace") for file in (talkative.stack.home / "logs").iterdir()}
    assert [name for name, text in logs.items() if MARKER in text] == []
    assert [name for name, text in logs.items() if KEY in text] == []
    lines = [json.loads(line) for name, text in logs.items() if name.startswith("worker-")
             for line in text.splitlines() if line.startswith("{")]  # fmt: skip
    # the last of them never became a run
    about = {job_id: [line for line in lines if line.get("job_id") == job_id] for job_id in ids[:-1]}
    assert all(about.values())
    assert all(line["event"] and "cost_nano" in line and "attempt" in line for of in about.values() for line in of)
    failed = about[ids[3]]
    assert failed[-1]["model"] and failed[-1]["cost_nano"] > 0


def decoded(command: str) -> str:
    """A command of MONITOR with the base64 bodies of Celery's messages made readable."""
    bodies = re.findall(r'\\"body\\": \\"([A-Za-z0-9+/=]+)\\"', command)
    return command + " ".join(base64.b64decode(body).decode(errors="replace") for body in bodies)


def capture(receiver: Any) -> None:
    try:
        receiver.capture(limit=None, timeout=60, wakeup=True)
    except (OSError, TimeoutError):
        return


def flower_pages(ids: list[str]) -> list[str]:
    return ["/tasks", "/workers", "/broker", "/api/tasks?limit=1000", "/api/workers?refresh=1", "/metrics",
            *(f"/task/{job_id}" for job_id in ids), *(f"/api/task/info/{job_id}" for job_id in ids)]  # fmt: skip
