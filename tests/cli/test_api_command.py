"""`paymaster api` and `api-token`."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from db.once import once_per_environment

PAYMASTER = [sys.executable, "-m", "cli"]
pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]


def paymaster(*arguments: str, **environment: str) -> Any:
    return subprocess.run(
        [*PAYMASTER, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_token_is_printed_with_its_line_for_the_environment() -> None:
    done = paymaster("api-token", "shop", "--role", "submit", "--role", "read", "--user", "42", "--json")
    told = json.loads(done.stdout)
    digest = hashlib.sha256(told["token"].encode()).hexdigest()
    assert told["entry"] == f"shop:submit+read:{digest}:42"
    text = paymaster("api-token", "shop").stdout
    token = next(line.strip() for line in text.splitlines() if line.startswith("  pm_"))
    assert f"export API_TOKENS=shop:submit:{hashlib.sha256(token.encode()).hexdigest()}" in text


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (("api-token", "a b"), {}, "paymaster: name: give letters"),
        (("api-token", "a", "--role", "king"), {}, "paymaster: role: is unknown; known: submit, read, admin"),
        (("api-token", "a", "--user", "x,y"), {}, "paymaster: name: give letters"),
        (("api", "--host", "0.0.0.0"), {}, "paymaster: API_TOKENS: is empty, so anybody who reaches 0.0.0.0"),
        (("api", "--port", "0"), {"API_TOKENS": "SECRET"}, "paymaster: API_TOKENS: number 1 is no token"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_what_cannot_be_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    settings: dict[str, str], sentence: str,
) -> None:  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    once_per_environment.forget_all()
    monkeypatch.setattr(sys, "argv", ["paymaster", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (1, "")
    assert told.err.startswith(sentence)
    assert told.err.count("\n") == 1
    assert "SECRET" not in told.err


@pytest.mark.parametrize(
    ("host", "settings", "sentence"),
    [
        ("127.0.0.1", {"DAILY_BUDGET_USD": "x"}, "paymaster: DAILY_BUDGET_USD: "),
        ("192.0.2.1", {"API_TOKENS": f"a:read:{'0' * 64}"}, "paymaster: cannot listen on 192.0.2.1"),
    ],
)
def test_nor_is_it_more_once_logging_is_set_up(host: str, settings: dict[str, str], sentence: str) -> None:
    """In a process of its own, whose logging that is."""
    done = paymaster("api", "--host", host, "--port", "0", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


@pytest.fixture
def served() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*PAYMASTER, "api", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_it_serves_until_it_is_told_to_stop(served: tuple[str, subprocess.Popen[str]]) -> None:
    url, process = served
    with urllib.request.urlopen(f"{url}/healthz", timeout=60) as answer:
        assert json.loads(answer.read()) == {"status": "alive"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)
