"""Flower as `paymaster up` starts it: behind a password that is kept, and there again after a restart."""

import os
import signal
from pathlib import Path

import pytest

from cli.flower import flower_auth
from tests.integration.conftest import RunningStack, wait_until

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(120)]


def status(url: str, auth: str | None, path: str = "/workers?json=1") -> int:
    import base64
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url + path)
    if auth is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def test_it_asks_for_its_password_and_comes_back_with_the_same(
    quiet: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    url, auth = quiet.stack.start_flower()
    try:
        wait_until(lambda: status(url, auth) == 200, 60)
        for wrong in (None, "paymaster:wrong", "paymaster:"):
            for path in ("/workers", "/tasks", "/api/tasks", "/api/workers", "/broker"):
                assert status(url, wrong, path) == 401, (wrong, path)
        os.kill(quiet.stack.pid("flower"), signal.SIGKILL)
        quiet.stack.wait("flower", 10)
        again, same = quiet.stack.start_flower()
        assert same == auth
        wait_until(lambda: status(again, auth) == 200, 60)
        command = Path(f"/proc/{quiet.stack.pid('flower')}/cmdline")
        assert not command.exists() or auth.partition(":")[2] not in command.read_text()
    finally:
        quiet.stack.end(["flower"])


def test_the_password_is_made_once_and_nobody_elses_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    home = tmp_path / "home"
    auth = flower_auth(home)
    assert flower_auth(home) == auth
    assert len(auth) > 20
    assert (home / "flower-password").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "me:mine")
    assert flower_auth(home) == "me:mine"
