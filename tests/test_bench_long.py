"""The benches of budgets and of long runs work, in their short forms; what they measure is not judged here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def short(name: str) -> dict[str, Any]:
    """What the bench prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_ours_is_not_billed_beyond_the_budget() -> None:
    told = short("overshoot")["ours"]["at_once"]
    assert told["overshoot_max_%"] == 0
    assert 0 < told["billed_usd"][0] <= told["budget_usd"]
    assert 0 < told["served"][0] <= 10 < told["calls"]


@pytest.mark.skipif(sys.platform != "linux", reason="the figures are those of /proc")
def test_growth_tells_what_a_job_costs_whom() -> None:
    told = short("growth")["sqlite"]["1 user"]
    assert told["largest_to_smallest"] > 0
    for size in ("100", "1000"):
        assert told[size]["worker_cpu_ms_per_job"] > 0
        assert told[size]["jobs_per_second"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the figures are those of /proc")
def test_a_soak_judges_every_series_and_tells_redis_keys_apart() -> None:
    told = short("soak")
    assert told["jobs_by_state"] == {"succeeded": told["jobs"] + 10}
    assert {"jobs_own_mb", "jobs_descriptors", "redis_clients", "keys_other"} <= told["judged"].keys()
    assert not any(name.startswith("keys_celery") for name in told["judged"])
    lapsing = told["redis_at_the_end"]["{paymaster}:reservation"]
    assert lapsing["bytes_per_job"] > 0 and lapsing["lapses_within_hours"] > 0
    lengths = {len(column) for column in told["series"].values()}
    assert len(lengths) == 1 and lengths.pop() > 3
