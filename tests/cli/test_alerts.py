"""`paymaster alerts`, in this process."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.shared import secret_names, settings_names
from db import alerts
from db.alerts import AlertKind, Notice
from db.once import once_per_environment
from db.session import write

pytestmark = pytest.mark.usefixtures("environment")


def paymaster(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["alerts", *arguments])


def told(*arguments: str) -> Any:
    done = paymaster(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def add(subject: str, **fields: str) -> Notice:
    row = {"period": "2026-11-22", "threshold": "0.8", "message": f"The budget of {subject} is 80 % used."} | fields
    notice = Notice(AlertKind.BUDGET, subject, **row)
    with write() as session:
        alerts.raise_alert(session, notice)
    return notice


def test_alerts_are_listed_with_their_state_and_each_channel() -> None:
    over = add("monthly")
    add("daily")
    with write() as session:
        alerts.clear(session, [over.key])
        alerts.hand_out(session, ("log", "webhook"))
        (alert, _) = alerts.claim(session, "log", 60) or (None, 0)
        assert alert is not None
        alerts.sent(session, alert.id, "log", None)
        alerts.claim(session, "webhook", 60)
        alerts.failed(session, alert.id, "webhook", "the webhook answered 404", None)
    daily, monthly = told()
    assert (daily["subject"], daily["threshold"], daily["cleared_at"]) == ("daily", "0.8", None)
    assert monthly["cleared_at"] is not None
    states = {way["channel"]: (way["state"], way["error"]) for way in monthly["deliveries"]}
    assert states == {"log": ("sent", None), "webhook": ("given up", "the webhook answered 404")}
    assert [row["subject"] for row in told("--open")] == ["daily"]
    assert [row["subject"] for row in told("--limit", "1")] == ["daily"]
    text = paymaster().stdout
    assert "webhook: given up" in text and "over" in text and "open" in text


def test_what_a_user_is_called_is_no_markup() -> None:
    add("user:[red]x[/]")
    assert "[red]x" in "".join(paymaster().stdout.split())


def test_a_test_message_says_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done = paymaster("test")
    assert (done.exit_code, done.stdout) == (0, "log: sent\n")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "http://127.0.0.1:1/secret")
    monkeypatch.setenv("ALERT_WEBHOOK_ALLOWED_HOSTS", "127.0.0.1")
    once_per_environment.forget_all()
    done = paymaster("test", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["webhook"].startswith("not sent: the webhook cannot be reached")
    assert "secret" not in done.output


def test_commands_beside_a_stack_agree_with_it_and_secrets_are_known_as_such() -> None:
    secrets = {"ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET", "SMTP_PASSWORD"}
    assert secrets <= settings_names()
    assert secret_names() == secrets
