"""The metrics: what a scrape holds, that parts fail by themselves, that no process' figures are lost or doubled, and
that the dashboard asks for nothing that does not exist."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, text

import watch.metrics
from budget.ledger import ledger
from cli.stack import free_port
from db.models import Alert, Job, JobState, Round, utc_now
from db.once import once_per_environment
from db.session import read, write
from tests.integration.conftest import point_celery_at
from tests.worker.conftest import Simulator
from tests.worker.lab import run_to_the_end, submit
from watch.metrics import render
from worker.app import app
from worker.errors import JobFailed

ROOT = Path(__file__).parents[2]

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scraped(page: bytes | None = None) -> Samples:
    """Samples by name, as Prometheus' own parser reads them."""
    found: Samples = {}
    for family in text_string_to_metric_families((page or render()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(number for own, number in samples.get(name, []) if labels.items() <= own.items())


@pytest.fixture(autouse=True)
def _fresh(environment: None, redis_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of another test's folder, and a broker that is there."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    before = app.conf.broker_url
    point_celery_at(redis_server)
    yield
    point_celery_at(before)


def add_jobs(**numbers: int) -> None:
    with write() as session:
        for state, number in numbers.items():
            for n in range(number):
                since = utc_now() - timedelta(seconds=10 * (n + 1))
                session.add(Job(id=f"{state}{n}", kind="parse", state=state, queue="parse", payload={}, user_id="u1",
                                created_at=since))  # fmt: skip


def test_what_is_not_over_is_counted_and_the_oldest_timed(warm_ledger: object) -> None:
    add_jobs(queued=3, running=1, deferred=2, succeeded=4, failed=1)
    found = scraped()
    assert value(found, "paymaster_jobs", state="queued", kind="parse", queue="parse") == 3
    assert value(found, "paymaster_jobs", state="deferred") == 2
    assert value(found, "paymaster_jobs") == 6
    assert 30 <= value(found, "paymaster_oldest_waiting_seconds", queue="parse") < 300
    assert value(found, "paymaster_oldest_waiting_seconds", queue="embed") == 0
    assert {labels["queue"] for labels, _ in found["paymaster_queue_messages"]} == {
        "parse", "generate", "generate-premium", "embed", "maintenance",
    }  # fmt: skip


def test_budgets_reservations_breakers_alerts_and_rounds(warm_ledger: object) -> None:
    ledger().reserve("a1", 5000, model="gpt-4o", job_id="j", user_id="zquser", job_cap=None, lease_s=30)
    ledger().note_sweep()
    with write() as session:
        session.add(Round(name="rollup", begun_at=utc_now()))
        for n, cleared in enumerate((None, None, utc_now())):
            session.add(Alert(kind="budget", subject=f"s{n}", period="p", threshold="t", message="m",
                              cleared_at=cleared))  # fmt: skip
    page = render()
    found = scraped(page)
    assert value(found, "paymaster_budget_reserved_nanousd", scope="daily") == 5000
    assert value(found, "paymaster_budget_limit_nanousd", scope="monthly") == 1000 * 10**9
    assert value(found, "paymaster_reservations_open") == 1
    assert value(found, "paymaster_breaker", model="gpt-4o", state="closed") == 1
    assert value(found, "paymaster_alerts_open", kind="budget") == 2
    now = utc_now().timestamp()
    assert now - 300 < value(found, "paymaster_round_timestamp_seconds", round="rollup") <= now
    assert now - 300 < value(found, "paymaster_last_sweep_timestamp_seconds") <= now
    assert b"zquser" not in page


def test_a_part_that_is_away_costs_the_others_nothing(warm_ledger: object, monkeypatch: pytest.MonkeyPatch) -> None:
    add_jobs(queued=1)
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    once_per_environment.forget_all()
    found = scraped()
    assert value(found, "paymaster_up", part="ledger") == 0
    assert value(found, "paymaster_up", part="database") == 1
    assert value(found, "paymaster_jobs") == 1
    assert "paymaster_budget_spent_nanousd" not in found
    once_per_environment.forget_all()
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at/all.db")
    assert value(scraped(), "paymaster_up", part="database") == 0


def test_an_answer_is_kept_for_a_moment(warm_ledger: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.metrics, "CACHED_FOR_S", 3600)
    add_jobs(queued=1)
    assert value(scraped(), "paymaster_jobs") == 1
    add_jobs(running=1)
    assert value(scraped(), "paymaster_jobs") == 1


@pytest.mark.sqlite
def test_the_count_looks_at_an_index_alone(warm_ledger: object) -> None:
    from sqlalchemy.dialects import sqlite

    from db import standing

    with write() as session:
        session.execute(insert(Job), [
            {"id": f"j{n}", "kind": "parse", "state": JobState.SUCCEEDED, "queue": "parse", "payload": {}}
            for n in range(500)
        ])  # fmt: skip
    seen = []
    with read() as session:
        original = session.execute
        session.execute = lambda query: seen.append(query) or original(query)  # type: ignore[method-assign]
        standing.live_jobs(session)
        statement = seen[0].compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        plan = " ".join(str(row) for row in original(text(f"EXPLAIN QUERY PLAN {statement}")))
    assert "COVERING INDEX ix_jobs_live" in plan


WORKER = """
import sys
from worker import metrics
for _ in range(int(sys.argv[1])):
    metrics.JOBS.labels("parse", "parse", "succeeded").inc()
print("counted", flush=True)
sys.stdin.read()
"""


def process(folder: Path, number: int) -> subprocess.Popen[str]:
    """A process that has counted so many jobs, and goes on living."""
    made = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(number)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "counted\n"
    return made


def kill(made: subprocess.Popen[str]) -> None:
    made.kill()
    end(made)


def end(made: subprocess.Popen[str]) -> None:
    """Let it end by itself, which it does when nobody speaks to it any more."""
    with made:
        pass


def test_many_processes_add_up_and_dead_ones_leave_neither_gaps_nor_files(
    warm_ledger: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))

    def finished() -> float:
        return value(scraped(), "paymaster_jobs_finished_total", state="succeeded")

    first, second = process(folder, 3), process(folder, 4)
    assert finished() == 7
    kill(first)
    assert finished() == 7
    for _ in range(3):
        kill(process(folder, 10))
    assert finished() == 37
    assert len(list(folder.glob("*.db"))) == 2
    end(second)


def test_a_worker_serves_its_own_figures(warm_ledger: object) -> None:
    program = """
import sys
from worker import metrics
metrics.RUNS.labels("parse", "succeeded").inc(2)
metrics.serve()
print("up", flush=True)
sys.stdin.read()
"""
    port = free_port()
    made = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "METRICS_PORT": str(port)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert made.stdout is not None
    try:
        assert made.stdout.readline() == "up\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert value(scraped(answer.read()), "paymaster_runs_total", kind="parse") == 2
    finally:
        end(made)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "maintenance"],
            env={**os.environ, "METRICS_PORT": str(taken.getsockname()[1])},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert told.returncode == 1
    assert "paymaster: METRICS_PORT: 127.0.0.1:" in told.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "maintenance"],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert "paymaster: PROMETHEUS_MULTIPROC_DIR: " in told.stderr


def test_what_cannot_be_counted_harms_no_job(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("worker.metrics.ATTEMPTS.labels", fail)
    monkeypatch.setattr("worker.metrics.RUNS.labels", fail)
    job_id = submit()
    run_to_the_end(job_id)
    with read() as session:
        assert session.get_one(Job, job_id).state == JobState.SUCCEEDED


def test_a_job_is_counted_with_its_costs_and_times(simulator: Simulator) -> None:
    from prometheus_client import generate_latest

    before = scraped(generate_latest())
    simulator.fault(fault="status", status=529, first=1)
    run_to_the_end(submit())
    simulator.fault(fault="invalid_json")
    with pytest.raises(JobFailed):
        run_to_the_end(submit())
    after = scraped(generate_latest())

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("paymaster_jobs_finished_total", state="succeeded", kind="parse", queue="parse") == 1
    assert grown("paymaster_jobs_finished_total", state="failed") == 1
    assert grown("paymaster_attempts_total", outcome="succeeded") == 1
    failed = grown("paymaster_attempts_total", error_code="invalid_answer")
    assert failed >= 1
    assert grown("paymaster_attempts_total", outcome="failed") == failed + 1
    assert grown("paymaster_cost_nanousd_total") == simulator.bill()
    assert grown("paymaster_provider_seconds_count", kind="parse") == 2 + failed
    assert grown("paymaster_overhead_seconds_count", kind="parse") == grown("paymaster_runs_total", kind="parse")
    assert grown("paymaster_tokens_total", direction="output") > 0


WORDS = ("sum", "by", "rate", "increase", "histogram_quantile", "time", "max", "min", "clamp_max", "clamp_min", "le",
         "on", "vector", "ignoring", "group_left", "or", "and", "topk", "label_replace", "without")  # fmt: skip


def names_asked_for(expression: str) -> set[str]:
    bare = re.sub(
        r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|without)\s*\([^)]*\)|\"[^\"]*\"|\b[0-9][0-9.e]*", " ", expression
    )
    return {word for word in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare) if word not in WORDS}


def test_the_dashboard_asks_for_what_there_is(simulator: Simulator) -> None:
    from prometheus_client import generate_latest

    add_jobs(queued=1)
    ledger().note_sweep()
    with write() as session:
        session.add(Round(name="rollup", begun_at=utc_now()))
        session.add(Alert(kind="budget", subject="s", period="p", threshold="t", message="m"))
    run_to_the_end(submit())
    known = scraped(render() + generate_latest())
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/paymaster.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 12
    assert {name for expression in expressions for name in names_asked_for(expression)} <= set(known)
    labels = {label for samples in known.values() for own, _ in samples for label in own} | {"le"}
    for expression in expressions:
        for group in re.findall(r"\bby\s*\(([^)]*)\)", expression):
            assert {word.strip() for word in group.split(",")} <= labels
    assert not {"user", "user_id"} & labels


def test_the_documentation_names_every_metric(simulator: Simulator) -> None:
    from prometheus_client import REGISTRY

    text = (ROOT / "docs/observability.md").read_text()
    ours = [family.name for family in REGISTRY.collect() if family.name.startswith("paymaster_")]
    stand = re.findall(r'"(paymaster_[a-z_]+)"', (ROOT / "watch/metrics.py").read_text())
    assert len(ours) >= 6 and len(stand) >= 8
    assert [name for name in {*ours, *stand} if name not in text] == []
