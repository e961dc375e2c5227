"""A short form of every scenario of `make chaos`. To play one again: `python -m tests.chaos --short NAME --seed N`."""

import json
import random
from dataclasses import asdict

import pytest

from tests.chaos.mutants import MUTANTS
from tests.chaos.runner import run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.stage import Stage

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_and_nothing_paid_twice(stage: Stage, name: str) -> None:
    seed = random.randrange(10**6)
    report = run(stage, SCENARIOS[name], seed, form="short")
    print(json.dumps(asdict(report), indent=2))
    assert report.violations == [], f"seed {seed}"


def test_every_scenario_has_a_control() -> None:
    assert {scenario.control for scenario in SCENARIOS.values()} == set(MUTANTS)
