"""Alerts in a running stack: beat, the maintenance worker and a real receiver; and how soon they come."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from budget.limits import set_limit
from db.models import Alert, Delivery
from db.session import read
from tasks import parse
from tests.chaos.nursery import Nursery
from tests.integration.conftest import RunningStack, start, wait_until
from tests.watch.conftest import Receiver, receiver  # noqa: F401  # a fixture

pytestmark = pytest.mark.xdist_group("stack-alerts")

MARKER = "Zwetschgenknödel-Manufaktur"


@pytest.fixture
def watched(
    receiver: Receiver,  # noqa: F811
    nursery: Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RunningStack]:
    """A stack of its own whose webhook is the receiver."""
    monkeypatch.setenv("ALERT_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("ALERT_WEBHOOK_ALLOWED_HOSTS", "127.0.0.1")
    yield from start(tmp_path / "home", nursery)


def test_a_budget_that_is_used_up_is_told_once_though_the_first_message_hangs(
    watched: RunningStack,
    receiver: Receiver,  # noqa: F811
) -> None:
    receiver.statuses = [0]
    # room for one call of up to $0.0007 or so, and not for another after it
    set_limit("user", "0.0008", "me")
    fields = {"job_description": f"{MARKER} looks for a baker. " * 20, "user_id": "anna", "model": "gpt-4o-mini"}
    watched.wait_final([parse.delay(**fields).id])
    began = time.monotonic()
    refused = watched.wait_final([parse.delay(**fields, on_budget="reject").id for _ in range(5)])
    assert {job.error_code for job in refused} == {"budget"}

    def sent_over(channel: str) -> list[str]:
        with read() as session:
            ways = select(Alert.subject).join(Delivery).where(
                Delivery.sent_at.is_not(None), Delivery.channel == channel, Alert.threshold == "1"
            )  # fmt: skip
            return list(session.scalars(ways))

    wait_until(lambda: sent_over("log"), 90)
    print(f"in the log after {time.monotonic() - began:.1f} s")
    assert receiver.hanging.wait(60)
    assert receiver.accepted == []
    receiver.over.set()
    wait_until(lambda: sent_over("webhook"), 90)
    assert [one["subject"] for one in receiver.accepted if one["threshold"] == "1"] == ["user:anna"]
    logs = "".join(path.read_text() for path in (watched.stack.home / "logs").glob("*.log"))
    assert "The daily budget of user anna is used up" in logs
    for secret in (MARKER, "secret-token"):
        assert secret not in logs + json.dumps(receiver.accepted)
