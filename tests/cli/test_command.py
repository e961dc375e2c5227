"""The `paymaster` command as a person runs it: in a process of its own, and nothing is left behind."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.main import main
from db.once import once_per_environment
from tests.integration.conftest import wait_until

PAYMASTER = [sys.executable, "-m", "cli"]
pytestmark = [pytest.mark.xdist_group("command"), pytest.mark.timeout(150)]

CLEAN = ("REDIS_URL", "DATABASE_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "PAYMASTER_HOME")


def surroundings(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in CLEAN and not name.endswith("_API_KEY")}
    return {**kept, "PAYMASTER_HOME": str(home), "TMPDIR": str(home)}


def paymaster(home: Path, *arguments: str, text: str | None = None, **environment: str) -> Any:
    return subprocess.run(
        [*PAYMASTER, *arguments], input=text, capture_output=True, text=True, timeout=120, check=False,
        env={**surroundings(home), **environment}, cwd=home,
    )  # fmt: skip


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that belong to a stack below `home` (by their environment)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PAYMASTER_HOME={home}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True, scope="module")
def _interruptible() -> Iterator[None]:
    """What a shell runs in the background ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def up(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A stack in the foreground of another process."""
    process = subprocess.Popen(
        [*PAYMASTER, "up", "--json", "--concurrency", "8"], stdout=subprocess.PIPE, text=True, cwd=home.parent,
        env=surroundings(home),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("{")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(40)
        if process.stdout is not None:
            process.stdout.close()


def test_the_demo_succeeds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = paymaster(tmp_path, "demo", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["equal"] is True
    assert told["bill_nano_usd"] == told["ledger_nano_usd"] == told["metrics_rows_nano_usd"] > 0
    assert {job["state"] for job in told["jobs"]} == {"succeeded"}
    assert {job["queue"] for job in told["jobs"]} == {"parse", "generate", "generate-premium", "embed"}
    assert any(job["processing_metadata"]["fallback_used"] for job in told["jobs"])
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    # one way leads out of either signal, so the one whose stack is up by then need not be played with both
    ("stage", "number"),
    [("Starting: ", signal.SIGINT), ("Starting: ", signal.SIGTERM), ("jobs: ", signal.SIGTERM)],
)
def test_an_interrupted_demo_stops_everything_it_started(tmp_path: Path, stage: str, number: int) -> None:
    """While it starts, and with jobs under way: by what it says, since after so many seconds it may have ended."""
    demo = subprocess.Popen(
        [*PAYMASTER, "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=surroundings(tmp_path),
        cwd=tmp_path,
    )  # fmt: skip
    assert demo.stdout is not None
    with demo.stdout as told:
        try:
            assert any(line.startswith(stage) for line in told)
        finally:
            demo.send_signal(number)
            assert demo.wait(60) == 130
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed parent")
def test_even_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*PAYMASTER, "demo", "--keep", str(tmp_path / "kept")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=surroundings(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    try:
        wait_until(lambda: len(processes_of(tmp_path / "kept")) >= 3)
    finally:
        demo.kill()
        demo.wait(10)
    wait_until(lambda: processes_of(tmp_path / "kept") == [])


def operate_the_budget(home: Path, job_id: str, attempt_id: str) -> None:
    """What an operator does with the budgets of a running stack."""

    def run(*arguments: str, status: int = 0) -> Any:
        done = paymaster(home, *arguments, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    scopes = run("budget", "--job", job_id[:10])["budgets"]
    assert [scope["scope"] for scope in scopes] == ["daily", "monthly", "user", "job"]
    assert (scopes[2]["limit_usd"], scopes[3]["limit_usd"], scopes[3]["resets_at"]) == (5, 0.15, None)
    assert run("budget", "set", "daily", "0.5") == {"scope": "daily", "limit_usd": 0.5}
    daily = run("budget")["budgets"][0]
    assert daily["limit_usd"] == 0.5
    assert daily["left_usd"] == pytest.approx(0.5 - daily["spent_usd"] - daily["reserved_usd"])
    wait_until(lambda: run("budget")["budgets"][0]["reserved_usd"] == 0)
    assert run("budget", "check") == []
    assert run("budget", "correct", attempt_id[:12], "0.3") == {"attempt": attempt_id, "cost_usd": 0.3}
    assert run("budget")["budgets"][0]["spent_usd"] > 0.3
    assert run("budget", "check") == []
    assert run("job", job_id)["attempts"][0]["cost_basis"] == "by_hand"
    assert run("budget", "unknown") == []
    assert [(c["what"], c["after"]) for c in run("changes")] == [("cost", "$0.30"), ("limit", "0.5")]
    assert run("budget", "rebuild") == {"rebuilt": True}
    assert run("budget", "check") == []
    with redis.Redis.from_url(environment_of(home)["REDIS_URL"]) as client:
        key = next(key for key in client.scan_iter("{paymaster}:day:*"))
        client.hincrby(key, "spent", -5)
    (difference,) = run("budget", "check", status=1)
    assert (difference["field"], difference["sql"] - difference["redis"]) == ("spent", 5)
    shown = paymaster(home, "budget", "--user", "7").stdout
    assert "user" in shown and "$5.00" in shown and "█" in shown


def environment_of(home: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((home / "environment.json").read_text())
    return found


@pytest.mark.timeout(300)
def test_a_stack_takes_jobs_and_shows_them_where_one_was_killed(tmp_path: Path) -> None:
    """What the first one left (its log, its environment file) must not be taken for the second one's."""
    home = tmp_path / "home"
    with up(home) as killed:
        done = paymaster(home, "submit", "parse", "-", "--wait", "--json", text="We look for a baker.")
        assert json.loads(done.stdout)[0]["state"] == "succeeded", done.stdout + done.stderr
        killed.kill()
        killed.wait(40)
        wait_until(lambda: processes_of(home) == [])
    with up(home) as process:
        operate(home, process, tmp_path)
    assert processes_of(home) == []


def operate(home: Path, process: subprocess.Popen[str], tmp_path: Path) -> None:
    """What people do beside a stack that has had one job of nobody's, from the first job to Ctrl-C."""
    folder = tmp_path / "postings"
    folder.mkdir()
    (folder / "a.txt").write_text("We look for a baker. Skills: dough and ovens. " * 30)
    (folder / "b.json").write_text(json.dumps({"title": "Miller", "text": "We mill flour, day and night."}))
    (folder / "c.jsonl").write_text('{"text": "One more."}\n\n{"text": "And another."}\n')

    submitted = paymaster(home, "submit", "parse", str(folder), "--wait", "--json", "--user", "7", "--api", "keywords")
    assert submitted.returncode == 0, submitted.stderr
    jobs = json.loads(submitted.stdout)
    assert [job["state"] for job in jobs] == ["succeeded"] * 4
    assert jobs[1]["result"]["role_title"] == "Miller"
    assert jobs[0]["user_id"] == "7"

    streamed = paymaster(home, "submit", "embed", "-", "--wait", "--json", text="just a text")
    assert len(json.loads(streamed.stdout)[0]["result"][0]["embedding"]) == 1536
    vectors = paymaster(home, "job", json.loads(streamed.stdout)[0]["id"], "--json")
    assert json.loads(vectors.stdout)["result"] == json.loads(streamed.stdout)[0]["result"], vectors.stderr
    generated = paymaster(home, "submit", "generate", str(folder / "a.txt"), "--strategy", "cost_optimized", "--json")
    assert json.loads(generated.stdout)[0]["id"]

    listed = json.loads(
        paymaster(home, "jobs", "--json", "--kind", "parse", "--state", "succeeded", "--user", "7").stdout
    )
    assert {job["id"] for job in listed} == {job["id"] for job in jobs}
    assert json.loads(paymaster(home, "jobs", "--json", "--api", "nobody").stdout) == []
    shown = json.loads(paymaster(home, "job", jobs[0]["id"][:10], "--json").stdout)
    assert shown["attempts"][0]["state"] == "succeeded"
    assert shown["result"]["processing_metadata"]["cost_usd"] > 0
    assert "succeeded" in paymaster(home, "job", jobs[0]["id"]).stdout
    compared = json.loads(paymaster(home, "strategies", "--json").stdout)
    parsed = next(row for row in compared if (row["strategy"], row["kind"]) == ("balanced", "parse"))
    assert (parsed["jobs"], parsed["success_rate"], parsed["fallback_rate"]) == (5, 1, 0)
    assert parsed["cost_per_job_usd"] > 0 and parsed["p95_ms"] > 0 and parsed["quality"] > 0
    assert "balanced" in paymaster(home, "strategies").stdout
    see_the_costs(home, shown)
    budget = json.loads(paymaster(home, "budget", "--json").stdout)["budgets"]
    assert [scope["scope"] for scope in budget] == ["daily", "monthly"]
    assert budget[0]["limit_usd"] == 50
    assert 0 < budget[0]["spent_usd"] < 1

    operate_the_budget(home, jobs[0]["id"], shown["attempts"][0]["id"])

    second = paymaster(home, "up", "--json")
    assert second.returncode == 1
    assert "another stack runs in" in second.stderr

    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a pseudo-terminal of a given width")
def test_the_tables_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    shown = subprocess.run(
        ["script", "-qec", f"stty cols 80; {sys.executable} -m cli models", "/dev/null"],
        capture_output=True, text=True, timeout=60, check=True, env=surroundings(tmp_path), cwd=tmp_path,
    ).stdout  # fmt: skip
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(len(line) for line in shown.splitlines()) <= 80
    for word in ("anthropic", "75", "200,000"):
        assert word in shown


def test_models_are_listed(tmp_path: Path) -> None:
    models = json.loads(paymaster(tmp_path, "models", "--json").stdout)
    assert {"gpt-4o", "claude-opus-4-1-20250805", "text-embedding-3-large"} <= {model["id"] for model in models}
    assert "claude-sonnet-4-20250514" in paymaster(tmp_path, "models").stdout


def test_the_registry_is_compared_with_litellms_prices_without_a_network(tmp_path: Path) -> None:
    done = paymaster(tmp_path, "models", "check", "--json", HTTPS_PROXY="http://127.0.0.1:1")
    assert done.returncode == 1
    found = {(row["model"], row["finding"]) for row in json.loads(done.stdout)}
    assert ("claude-sonnet-4-20250514", "missing") in found
    assert "missing" in paymaster(tmp_path, "models", "check").stdout


def test_jobs_are_replayed_without_a_stack(tmp_path: Path) -> None:
    done = paymaster(tmp_path, "replay", "-", "--json", "--strategy", "balanced", text="We look for a baker. " * 80)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["balanced", "legacy"]
    assert "balanced" in paymaster(tmp_path, "replay", "-", text="We look for a baker.").stdout


def see_the_costs(home: Path, job: dict[str, Any]) -> None:
    """The costs of today by each key, of a stack in which the user 7 has had a job."""
    told = {by: json.loads(paymaster(home, "costs", "--by", by, "--json").stdout) for by in
            ("day", "user", "model", "api", "strategy", "kind")}  # fmt: skip
    totals = [found["total"] for found in told.values()]
    assert all(total["cost_usd"] > 0 and total["attempts"] >= total["generations"] > 0 for total in totals)
    assert sum(row["cost_usd"] for row in told["user"]["rows"]) == pytest.approx(told["user"]["total"]["cost_usd"])
    assert {row["user"] for row in told["user"]["rows"]} >= {"7", None}
    assert job["processing_metadata"]["model_used"] in {row["model"] for row in told["model"]["rows"]}
    assert [row["day"] for row in told["day"]["rows"]] == [told["day"]["to"]]
    assert {"parse", "embed"} <= {row["kind"] for row in told["kind"]["rows"]}
    parsed = next(row for row in told["kind"]["rows"] if row["kind"] == "parse")
    assert parsed["cost_per_generation_usd"] == pytest.approx(parsed["cost_usd"] / parsed["generations"])
    assert "total" in paymaster(home, "costs", "--by", "model").stdout


def test_a_database_without_jobs_has_no_strategies_to_compare(tmp_path: Path) -> None:
    assert paymaster(tmp_path, "db", "upgrade").returncode == 0
    assert json.loads(paymaster(tmp_path, "strategies", "--json").stdout) == []
    costs = json.loads(paymaster(tmp_path, "costs", "--json").stdout)
    assert costs["rows"] == [] and costs["total"]["cost_usd"] == 0
    assert costs["total"]["cost_per_generation_usd"] is None


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (("submit", "parse", "missing.txt"), {}, "missing.txt: cannot be read: No such file or directory"),
        (("submit", "sing", "-"), {}, "'sing' is no kind of job; give parse, generate or embed"),
        (("budget",), {"DAILY_BUDGET_USD": "plenty"}, "DAILY_BUDGET_USD: 'plenty' is no limit"),
        (("budget",), {"BUDGET_TIMEZONE": "Mars/Olympus"}, "BUDGET_TIMEZONE: 'Mars/Olympus' is no IANA time zone"),
        (("budget",), {"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis"),
        (("jobs",), {"DATABASE_URL": "sqlite:////dev/null/x.db"}, "database cannot be used"),
        (("jobs", "--state", "lost"), {}, "'lost' is no state"),
        (("costs", "--by", "hour"), {}, "'hour' is no grouping; give day, user, model, api, strategy or kind"),
        (("models",), {"MODEL_REGISTRY_FILE": "gone.toml"}, "MODEL_REGISTRY_FILE: gone.toml cannot be read"),
        (("replay", "-", "--model", "gpt-9"), {}, "model: 'gpt-9' is not in the model registry"),
        (("replay", "-", "--strategy", "x"), {}, "strategy: 'x' is unknown; known: cost_optimized, balanced"),
        (("job", "nothing"), {}, "there is no job whose id begins with 'nothing'"),
        (("budget", "set", "weekly", "5"), {}, "scope: 'weekly' has no limit to set; known: daily, monthly, user"),
        (("budget", "set", "daily", "much"), {}, "limit: 'much' is no limit; give USD from 0"),
        (("budget", "set", "daily", "-5"), {}, "limit: '-5' is no limit; give USD from 0"),
        (("budget", "correct", "nothing", "5"), {}, "there is no attempt whose id begins with 'nothing'"),
        (("budget",), {"COST_ALERT_THRESHOLD": "80"}, "COST_ALERT_THRESHOLD: '80' is no share; give a number above 0"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_what_cannot_be_done_is_one_sentence_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    settings: dict[str, str], sentence: str,
) -> None:  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    once_per_environment.forget_all()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["paymaster", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (1, "")
    assert sentence in told.err
    assert len(told.err.strip().splitlines()) == 1, told.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("submit", "parse", "missing.txt"), "missing.txt: cannot be read"), (("jobs",), "database cannot be used")],
)
def test_so_it_is_in_a_process_of_its_own(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    """Nothing of logging, warnings or what is left to clean up is added to it."""
    done = paymaster(tmp_path, *arguments, DATABASE_URL="sqlite:////dev/null/x.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
