"""A worker refuses to start on a bad setting, in one sentence; and what it never logs."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kombu.exceptions import DecodeError

from db.once import once_per_environment
from worker.checks import check_database, hide_arguments


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("DAILY_BUDGET_USD", "5O", "DAILY_BUDGET_USD: '5O' is no limit"),
        ("MODEL_SELECTION_STRATEGY", "foo", "MODEL_SELECTION_STRATEGY: strategy: 'foo' is unknown"),
        ("LLM_CALL_DEADLINE_S", "-1", "LLM_CALL_DEADLINE_S: "),
        ("BUDGET_TIMEZONE", "Mars", "BUDGET_TIMEZONE: 'Mars' is no IANA time zone"),
        ("LLM_MODEL_KEYWORDS", "typo", "LLM_MODEL_KEYWORDS: 'typo' is not in the model registry"),
        ("LLM_MODEL_DEFAULT", "typo", "LLM_MODEL_DEFAULT: 'typo' is not in the model registry"),
        ("LLM_MODEL_ALLOWED_KEYWORDS", "gpt-4o,typo", "LLM_MODEL_ALLOWED_KEYWORDS: 'typo' is not in the model reg"),
        ("MODEL_SPLIT_TEST", "balanced=50", "MODEL_SPLIT_TEST: the shares add up to 50 and must add up to 100"),
        ("MODEL_SPLIT_TEST", "foo=100", "MODEL_SPLIT_TEST: strategy: 'foo' is unknown"),
        ("MODEL_SELECTION_ADAPTIVE", "perhaps", "MODEL_SELECTION_ADAPTIVE: "),
        ("MODEL_REGISTRY_FILE", "/nowhere.toml", "MODEL_REGISTRY_FILE: /nowhere.toml cannot be read"),
        ("DATABASE_URL", "mysql://x", "DATABASE_URL: mysql is not supported"),
        ("DATABASE_URL", "paymaster", "DATABASE_URL: no URL is not supported"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: "),
        ("ALERT_WEBHOOK_URL", "http://hooks.example", "ALERT_WEBHOOK_URL: must begin with https://"),
        ("COST_ALERT_THRESHOLDS", "80", "COST_ALERT_THRESHOLDS: '80' is no share"),
        ("WORKER_CONCURRENCY", "many", "WORKER_CONCURRENCY: 'many' is no number"),
    ],
)
def test_a_worker_refuses_to_start_on_a_bad_setting(variable: str, value: str, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "maintenance"],
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0", variable: value},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("environment")
def test_a_worker_refuses_to_scale() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "maintenance", "--autoscale=4,1"],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, "paymaster: --autoscale: " in done.stderr) == (1, True)


@pytest.mark.timeout(60)
def test_beat_refuses_to_start_on_a_bad_log_level(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "beat"],
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0", "PAYMASTER_HOME": str(tmp_path), "LOG_LEVEL": "loud"},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, "paymaster: LOG_LEVEL: 'loud' is no level" in done.stderr) == (1, True)


def test_a_database_that_is_away_at_the_start_is_waited_for(
    environment: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    once_per_environment.forget_all()
    check_database()
    assert "the database is away, and is looked at later: OperationalError" in caplog.text


def record(message: str, *arguments: object) -> str:
    made = logging.LogRecord("celery.worker.consumer.consumer", logging.ERROR, "f", 1, message, arguments, None)
    made.data = {"id": "j", "args": "marker", "kwargs": "marker"}
    assert hide_arguments(made)
    assert "marker" not in str(made.data)
    return made.getMessage()


def test_a_message_that_cannot_be_run_is_named_without_its_body() -> None:
    told = record(
        "Received unregistered task of type %s.\nmessage body was: %s %s %s", "'parze'", "marker", {"a": "marker"}, {}
    )
    assert "parze" in told
    assert "marker" not in told
    undecodable = DecodeError(UnicodeDecodeError("utf-8", b"marker", 0, 1, "invalid"))
    told = record("Can't decode message body: %r [type:%r]\n\nbody: %s", undecodable, "application/json", "marker")
    assert "DecodeError of UnicodeDecodeError" in told
    assert "marker" not in told
    assert "marker" not in record("The full contents of the message body was: %s", "marker")
    assert record("all is well with %s and %s", "this", "that") == "all is well with this and that"


def test_a_line_without_data_stays_as_it_is() -> None:
    made = logging.LogRecord("celery", logging.INFO, "f", 1, "all is well with %s", ("this",), None)
    assert hide_arguments(made)
    assert made.getMessage() == "all is well with this" and not hasattr(made, "data")
