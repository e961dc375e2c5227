"""`paymaster doctor`: every check is seen firing, none of it holds a secret, and nothing makes it hang."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from budget.ledger import Ledger, ledger
from budget.scopes import SWEPT, WARM
from cli import probes, probes_here
from cli.doctor import examine
from cli.findings import Finding, Probe, ok, place
from cli.stack import ENVIRONMENT_FILE
from db.migrate import upgrade
from db.models import Alert, Attempt, AttemptState, CostBasis, Delivery, Job, JobState, utc_now
from db.once import once_per_environment
from db.session import write
from tests.integration.conftest import point_celery_at

pytestmark = pytest.mark.usefixtures("environment")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Redis of the tests may be young."""
    monkeypatch.setattr(probes, "PATIENCE_S", 0.0)


def found(probe: Probe) -> set[tuple[str, str]]:
    return {(str(one.level), one.subject) for one in examine([probe])}


def sentence(probe: Probe, subject: str) -> str:
    return " ".join(one.sentence for one in examine([probe]) if one.subject == subject)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    once_per_environment.forget_all()


@pytest.fixture
def server(redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def test_a_bad_variable_is_named_and_keeps_nothing_else_from_being_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(probes_here.settings) == {("ok", "settings")}
    set_variables(monkeypatch, DAILY_BUDGET_USD="much", MODEL_SELECTION_STRATEGY="cheapest", SMTP_PORT="0")
    told = sentence(probes_here.settings, "settings")
    assert "DAILY_BUDGET_USD: 'much'" in told and "SMTP_PORT" in told
    # the limits hang on it
    assert ("error", "agreement") in found(probes_here.agreement)
    assert ("ok", "disk") in found(probes_here.files)
    set_variables(monkeypatch, DAILY_BUDGET_USD="50", SMTP_PORT="25")
    assert "MODEL_SELECTION_STRATEGY: strategy: 'cheapest' is unknown" in sentence(probes_here.settings, "settings")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DAILY_BUDGET_USD": "2000"}, "the daily limit is above the monthly"),
        ({"DAILY_BUDGET_USD": "unlimited"}, "the daily limit is above the monthly"),
        ({"MAX_COST_PER_USER_DAILY_USD": "51"}, "the user limit is above the daily"),
        ({"MONTHLY_BUDGET_USD": "0"}, "the monthly limit is 0"),
        ({"MAX_COST_PER_USER_DAILY_USD": "0.1"}, "under balanced may cost more than a limit"),
        (dict.fromkeys(("DAILY_BUDGET_USD", "MONTHLY_BUDGET_USD", "MAX_COST_PER_USER_DAILY_USD"), "unlimited"),
         "no limit is set at all"),
    ],
)  # fmt: skip
def test_limits_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    assert "warning" not in {level for level, _ in found(probes_here.agreement)}
    set_variables(monkeypatch, **variables)
    assert words in sentence(probes_here.agreement, "budgets")


def test_a_limit_that_was_set_by_hand_counts(warm_ledger: Ledger, server: redis.Redis) -> None:
    from budget.limits import set_limit

    set_limit("daily", "0", "test")
    assert "the daily limit is 0" in sentence(probes_here.agreement, "budgets")


def test_a_threshold_below_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, COST_ALERT_THRESHOLDS="0.5,0.9")
    assert ("warning", "alerts") in found(probes_here.agreement)


def test_keys_are_missing_for_some_or_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("error", "keys") in found(probes_here.models)
    set_variables(monkeypatch, OPENAI_API_KEY="sk-1")
    assert ("warning", "keys") in found(probes_here.models)
    assert "ANTHROPIC_API_KEY is not set, so claude-sonnet-4-20250514" in sentence(probes_here.models, "keys")
    set_variables(monkeypatch, ANTHROPIC_API_KEY="sk-2")
    assert found(probes_here.models) == {("ok", "keys")}
    set_variables(monkeypatch, LLM_MODEL_KEYWORDS="gpt4o-2", AZURE_API_KEY="k")
    assert "AZURE_API_BASE is not set" in sentence(probes_here.models, "keys")


def test_models_without_a_price_or_past_their_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        '[models."gpt-4o"]\ndeprecated = 2020-01-01\n[models."gpt-4o-mini"]\nprice = { input = 0, output = 0 }\n'
    )
    set_variables(monkeypatch, MODEL_REGISTRY_FILE=str(own), OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k")
    told = sentence(probes_here.models, "models")
    assert "gpt-4o (strategy balanced) is past its deprecation date, 2020-01-01" in told
    assert "gpt-4o-mini (strategy balanced) has no price" in told


def test_redis_that_is_away_or_evicts_or_is_full(monkeypatch: pytest.MonkeyPatch, server: redis.Redis) -> None:
    assert ("error", "redis memory") not in found(probes.ledger_redis)
    server.config_set("maxmemory-policy", "allkeys-lru")
    assert ("error", "redis memory") not in found(probes.ledger_redis), "it has no limit to evict by"
    server.config_set("maxmemory", 1 << 30)
    assert "allkeys-lru" in sentence(probes.ledger_redis, "redis memory")
    server.config_set("maxmemory-policy", "noeviction")
    assert ("error", "redis memory") not in found(probes.ledger_redis)
    server.config_set("maxmemory", int(server.info("memory")["used_memory"]) + (64 << 10))
    assert ("warning", "redis memory") in found(probes.ledger_redis)
    set_variables(monkeypatch, REDIS_URL="redis://127.0.0.1:1/0")
    assert found(probes.ledger_redis) == {("error", "redis")}


def test_what_redis_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_server: str) -> None:
    assert ("warning", "redis persistence") in found(probes.ledger_redis)
    (tmp_path / ENVIRONMENT_FILE).write_text(json.dumps({"REDIS_URL": redis_server}))
    assert ("note", "redis persistence") in found(probes.ledger_redis)
    broken = {"aof_enabled": 1, "aof_last_write_status": "err"}
    assert [one.level for one in probes._persistence(broken)][-1] == "error"
    (tmp_path / ENVIRONMENT_FILE).unlink()
    assert list(probes._persistence({"aof_enabled": 1, "aof_last_write_status": "ok"})) == []


def test_a_ledger_that_is_cold_or_another_servers_or_of_another_zone(
    monkeypatch: pytest.MonkeyPatch, server: redis.Redis
) -> None:
    from budget.rebuild import rebuild_if_cold

    assert ("error", "ledger") in found(probes.ledger_redis)
    assert rebuild_if_cold(ledger(), wait_s=0)
    assert ("ok", "ledger") in found(probes.ledger_redis)
    set_variables(monkeypatch, BUDGET_TIMEZONE="Asia/Tokyo")
    assert "BUDGET_TIMEZONE is Asia/Tokyo" in sentence(probes.ledger_redis, "ledger")
    set_variables(monkeypatch, BUDGET_TIMEZONE="UTC")
    server.hset(WARM, "server", "another")
    assert "cold" in sentence(probes.ledger_redis, "ledger")
    assert server.hget(WARM, "server") == "another", "the doctor changes nothing"


@pytest.mark.parametrize(("off", "level"), [(0, "ok"), (-10, "warning"), (300, "error")])
def test_clocks_that_disagree(monkeypatch: pytest.MonkeyPatch, off: float, level: str) -> None:
    monkeypatch.setattr(probes, "now", lambda: time.time() + off)
    assert (level, "clock") in found(probes.ledger_redis)


def test_a_beat_that_is_not_seen(server: redis.Redis) -> None:
    assert "never" in sentence(probes.ledger_redis, "beat")
    server.set(SWEPT, int(time.time()) - 600)
    assert ("error", "beat") in found(probes.ledger_redis)
    server.set(SWEPT, int(time.time()))
    assert ("ok", "beat") in found(probes.ledger_redis)


def test_what_was_just_started_gets_time_to_come(monkeypatch: pytest.MonkeyPatch, server: redis.Redis) -> None:
    monkeypatch.setattr(probes, "PATIENCE_S", 30.0)
    monkeypatch.setattr(probes, "YOUNG_S", 1 << 40)
    beat = threading.Timer(1.2, lambda: server.set(SWEPT, int(time.time())))
    beat.start()
    assert ("ok", "beat") in found(probes.ledger_redis)
    beat.join()
    server.set(SWEPT, int(time.time()) - 600)
    monkeypatch.setattr(probes, "YOUNG_S", 0)
    assert ("error", "beat") in found(probes.ledger_redis), "an old one is asked once"


def test_workers_that_were_just_started_get_time_to_answer(monkeypatch: pytest.MonkeyPatch, redis_server: str) -> None:
    from celery.app.control import Inspect

    from worker.app import app

    before, queues = app.conf.broker_url, list(app.amqp.queues)
    answers: list[Any] = [None, {"a@x": [{"name": queues[0]}]}, {"b@x": [{"name": name} for name in queues]}]
    monkeypatch.setattr(Inspect, "active_queues", lambda self: answers.pop(0))
    monkeypatch.setattr(probes, "PATIENCE_S", 30.0)
    monkeypatch.setattr(probes, "YOUNG_S", 1 << 40)
    try:
        point_celery_at(redis_server)
        assert found(probes.broker_and_workers) == {("ok", "broker"), ("ok", "workers")}
    finally:
        point_celery_at(before)


@pytest.mark.parametrize(("off", "level", "words"), [
    (0, "ok", "that of SQL agrees"),
    (-10, "warning", "that of SQL is 10 s ahead of"),
    (300, "error", "that of SQL is 300 s behind"),
])  # fmt: skip
def test_the_clock_of_sql_that_disagrees(
    monkeypatch: pytest.MonkeyPatch, migrated_postgres: str, off: float, level: str, words: str
) -> None:
    set_variables(monkeypatch, DATABASE_URL=migrated_postgres)
    monkeypatch.setattr(probes, "now", lambda: time.time() + off)
    assert (level, "clock") in found(probes.database)
    assert words in sentence(probes.database, "clock")
    once_per_environment.forget_all()  # nobody may stay connected to what is copied


def test_a_database_that_is_missing_away_or_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert found(probes.database) == {("ok", "database")}
    set_variables(monkeypatch, DATABASE_URL=f"sqlite:///{tmp_path / 'other.db'}")
    assert "does not exist" in sentence(probes.database, "database")
    assert not (tmp_path / "other.db").exists(), "the doctor makes nothing"
    upgrade("0002")
    assert sentence(probes.database, "database").startswith(f"{tmp_path}/other.db has the schema 0002")
    set_variables(monkeypatch, DATABASE_URL="postgresql://u:p@127.0.0.1:1/x")
    assert "gives no usable answer" in sentence(probes.database, "database")


def test_what_rows_say_of_trouble() -> None:
    job = Job(id="j", kind="parse", queue="parse", payload={}, state=JobState.QUEUED, due_at=utc_now())
    attempt = Attempt(
        id="j:1", job_id="j", number=1, state=AttemptState.UNKNOWN, model_name="gpt-4o", provider="openai",
        task_type="parse", strategy="balanced", reason="r", budget_day="2026-01-01", budget_month="2026-01",
        reserved_nano=10**9, cost_nano=10**9, cost_basis=CostBasis.RESERVATION,
        settled_at=utc_now() - timedelta(hours=3),
    )  # fmt: skip
    alert = Alert(kind="budget", subject="daily", period="2026-01-01", threshold="1", message="m")
    with write() as session:
        session.add_all([job, alert])
        session.flush()
    assert found(probes.database) == {("ok", "database")}
    with write() as session:
        session.add_all([attempt, Delivery(alert_id=alert.id, channel="webhook", tries=12)])
        session.flush()
        session.get_one(Delivery, (alert.id, "webhook")).due_at = None
        session.get_one(Job, "j").due_at = utc_now() - timedelta(minutes=5)
    assert found(probes.database) == {
        ("ok", "database"), ("warning", "rollup"), ("warning", "jobs"), ("warning", "costs"), ("warning", "alerts"),
    }  # fmt: skip


def test_queues_without_a_worker_and_a_broker_that_is_away(redis_server: str) -> None:
    from worker.app import app

    before = app.conf.broker_url
    try:
        point_celery_at(redis_server)
        told = sentence(probes.broker_and_workers, "workers")
        assert all(queue in told for queue in app.amqp.queues)
        point_celery_at("redis://127.0.0.1:1/0")
        assert found(probes.broker_and_workers) == {("error", "broker")}
    finally:
        point_celery_at(before)


def test_the_spool_the_disk_and_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "1-now.json").write_text("{}")
    monkeypatch.setattr(probes_here.resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert found(probes_here.files) == {("ok", "disk")}
    (spool / "0-long-ago.json").write_text("{}")
    os.utime(spool / "0-long-ago.json", (0, 0))
    (spool / "2-odd.bad").write_text("x")
    monkeypatch.setattr(probes_here.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500 << 20))
    assert found(probes_here.files) == {
        ("warning", "disk"), ("error", "spool"), ("warning", "spool"), ("warning", "open files"),
    }  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 << 20))
    assert ("error", "disk") in found(probes_here.files)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in sentence(probes_here.files, "disk")


def test_who_hears_of_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(probes_here.people) == {("warning", "alerts"), ("note", "api")}
    set_variables(
        monkeypatch, ALERT_WEBHOOK_URL="https://hooks.example.com/secretpart", API_TOKENS=f"shop:submit:{'0' * 64}"
    )
    assert found(probes_here.people) == {("ok", "alerts")}


def test_a_probe_that_hangs_or_breaks_is_a_finding_and_what_it_had_found_stays() -> None:
    def hangs() -> Iterator[Finding]:
        yield ok("first", "seen")
        time.sleep(60)

    def breaks() -> Iterator[Finding]:
        raise RuntimeError("secret text")
        yield

    told = [(str(one.level), one.subject, one.sentence) for one in examine([hangs, breaks], within_s=0.5)]
    assert told == [
        ("ok", "first", "seen"), ("error", "hangs", "gave no answer within 0.5 s"),
        ("error", "breaks", "could not be looked at (RuntimeError)"),
    ]  # fmt: skip


def test_a_place_has_no_login() -> None:
    assert place("redis://user:pass@example.com:6379/0") == "redis://example.com:6379"
    assert place("redis://u:p#w@h:x/0") == "an address that cannot be read" or "p#w" not in place("redis://u:p#w@h:x/0")


SLOW_CELERY = """
import builtins, time

def slowly(name, names=None, *rest):
    time.sleep({"worker.app": 1, "celery": 2}.get(name or (names or {}).get("__name__"), 0))
    return imported(name, names, *rest)

from cli import doctor, probes, probes_here
imported, builtins.__import__ = builtins.__import__, slowly
print(*(one.sentence for one in doctor.examine((probes_here.models, probes.broker_and_workers))), sep="\\n")
"""


def test_two_probes_that_want_celery_at_once_both_get_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_CELERY], capture_output=True, text=True, check=True,
        cwd=ROOT, env={**os.environ, "WORKER_CONCURRENCY": "no"},
    )  # fmt: skip
    assert "WORKER_CONCURRENCY: 'no' is no number of 1 or more" in done.stdout


@pytest.mark.timeout(120)
def test_with_everything_down_it_answers_and_tells_no_secret(tmp_path: Path) -> None:
    word = "Xq9secretword"
    down: dict[str, Any] = {
        "REDIS_URL": f"redis://user:{word}@127.0.0.1:1/0", "DATABASE_URL": f"postgresql://u:{word}@127.0.0.1:1/x",
        "CELERY_BROKER_URL": f"amqp://u:{word}@127.0.0.1:1//", "OPENAI_API_KEY": word, "SMTP_PASSWORD": word,
        "ALERT_WEBHOOK_URL": f"http://127.0.0.1/{word}", "API_TOKENS": f"{word}:x:y", "WORKER_CONCURRENCY": "no",
        "PAYMASTER_HOME": str(tmp_path / "none"),
    }  # fmt: skip
    for arguments in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-m", "cli", "doctor", *arguments], capture_output=True, text=True, check=False,
            cwd=ROOT, env={**os.environ, **down},
        )  # fmt: skip
        assert done.returncode == 2
        assert word not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == 2
    subjects = {one["subject"] for one in told["findings"] if one["level"] == "error"}
    assert {"settings", "redis", "database"} <= subjects
    assert "WORKER_CONCURRENCY" in done.stdout
