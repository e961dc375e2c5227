"""Commands and health checks of docker-compose.yml, by hand: there is no Docker engine here. What a container would run
is parsed by the real program, and its health checks are run against the parts of a running stack."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from celery.bin.celery import celery
from sqlalchemy import make_url

from tests.integration.conftest import RunningStack, wait_until
from tests.postgres import postgres_server

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(170)]

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OF_CELERY = {name: service["command"] for name, service in SERVICES.items()
             if isinstance(service.get("command"), list) and service["command"][0] == "celery"}  # fmt: skip


@pytest.mark.parametrize("name", OF_CELERY)
def test_celery_understands_its_command(name: str) -> None:
    words = list(OF_CELERY[name])
    assert words[:4] == ["celery", "--quiet", "-A", "worker.app"]
    command = celery.commands[words[4]]
    given, others, _ = command.make_parser(click.Context(command, info_name=words[4])).parse_args(words[5:])
    assert others == []
    assert words[4] == "beat" or {"queues", "hostname"} <= set(given)


def run_check(stack: RunningStack, command: list[str], **more: str) -> int:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **stack.stack.environment, "PATH": path, **more}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode


def test_the_health_check_of_a_worker_asks_that_worker(quiet: RunningStack) -> None:
    test = SERVICES["worker-parse"]["healthcheck"]["test"]
    assert test[0] == "CMD-SHELL" and test[1].startswith("paymaster-entrypoint ")
    command = test[1].replace("paymaster-entrypoint", str(ROOT / "deploy/entrypoint.sh"), 1).replace("$$", "$")
    node = {"HOSTNAME": socket.gethostname()}
    # it may have just been started
    wait_until(lambda: run_check(quiet, ["sh", "-c", f"sh {command}"], NODE="parse", **node) == 0, 90)
    assert run_check(quiet, ["sh", "-c", f"sh {command}"], NODE="nobody", **node) != 0


def test_the_health_check_of_postgresql(quiet: RunningStack) -> None:
    kind, command = SERVICES["postgres"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL" and command.startswith("pg_isready ")
    with postgres_server() as server:
        url = make_url(server.url)
        # in the container it finds the server at its socket
        where = {"PGHOST": str(url.host), "PGPORT": str(url.port)}
        assert run_check(quiet, ["sh", "-c", f"{server.programs}/{command}"], **where) == 0
        server.kill()
        assert run_check(quiet, ["sh", "-c", f"{server.programs}/{command}"], **where) != 0


def test_the_health_check_of_the_api(quiet: RunningStack) -> None:
    kind, *command = SERVICES["api"]["healthcheck"]["test"]
    assert kind == "CMD" and "127.0.0.1:8000" in command[-1]
    here = command[-1].replace("http://127.0.0.1:8000", quiet.stack.environment["PAYMASTER_API"])
    assert run_check(quiet, [*command[:-1], here]) == 0
    nowhere = re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", here)
    assert run_check(quiet, [*command[:-1], nowhere]) != 0
    assert json.dumps(SERVICES["flower"]["healthcheck"]["test"]).count("5555/healthcheck") == 1
