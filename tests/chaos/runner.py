"""Plays one scenario: fresh stage, jobs, what breaks, recovery, verdict."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from budget.errors import LedgerError
from budget.ledger import ledger
from db.jobs import CLAIM_WITHIN_S
from db.models import JobState
from tasks import parse
from tests.chaos.referee import Report, judge
from tests.chaos.stage import HURRY, POSTING, Stage, wait_until

FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
# a control need not recover; what it would lose counts as lost after this long
CONTROL_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of it: jobs, how often something breaks, and for how many seconds."""

    jobs: int
    times: int = 1
    seconds: float = 0
    within_s: float = 120


@dataclass(frozen=True, slots=True)
class Scenario:
    """What breaks, when, and what must hold beyond what always must. `play` is given the running play and breaks what
    is to be broken; when it returns, nothing is broken any more."""

    name: str
    play: Callable[["Play"], None]
    short: Dose
    full: Dose
    control: str
    exactly_once: bool = False
    least_success: float = 1.0
    orders: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    # settings of the short form, besides
    hurry: Mapping[str, str] = field(default_factory=dict)


class Play:
    """A scenario that is being played."""

    def __init__(self, stage: Stage, dose: Dose, chance: random.Random) -> None:
        self.stage = stage
        self.dose = dose
        self.chance = chance
        self.ids: list[str] = []
        self.seen: dict[str, Any] = {}
        self.healed_at: float | None = None
        self.missed: list[str] = []

    def submit(self, number: int | None = None) -> None:
        """So many more jobs, each of another length, so that no two calls cost the same by chance."""
        for _ in range(self.dose.jobs if number is None else number):
            size = len(self.ids) % 400
            text = f"{POSTING * 13} {'dough ' * size}"
            self.ids.append(parse.delay(job_description=text, user_id=len(self.ids) % 50).id)

    def faults(self, *rules: dict[str, Any]) -> None:
        self.stage.faults(self.chance.randrange(2**31), *rules)

    def slow(self, p50: float = 0.7, p95: float = 1.5) -> None:
        """Calls take a while, so that something is under way when something breaks."""
        self.faults({"fault": "latency", "p50": p50, "p95": p95})

    def expect(self, holds: bool, otherwise: str) -> None:
        """What must have happened, or the play has shown nothing. (Of a control it need not.)"""
        if not holds:
            self.missed.append(otherwise)

    def healed(self) -> None:
        """From now on nothing is broken. So says the end of a play, unless it did."""
        self.healed_at = self.healed_at or time.monotonic()

    def until_running(self, number: int, within_s: float = 60) -> None:
        assert wait_until(lambda: self.stage.count(JobState.RUNNING) >= number, within_s), "nothing runs"

    def until_calling(self, number: int, within_s: float = 60) -> None:
        assert wait_until(lambda: self.stage.requests() >= number, within_s), "nothing is called"

    def until_done(self, share: float = 1) -> None:
        """Wait for so many of the jobs so far; whether they are lost is for the referee to say."""
        wait_until(lambda: self.stage.count(*FINAL) >= share * len(self.ids), self.dose.within_s)

    def until_settled(self) -> None:
        """Wait until no reservation is open; whether money stays reserved is for the referee to say."""
        wait_until(_nothing_reserved, min(60, self.dose.within_s))

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.chance.uniform(least, most))


def run(stage: Stage, scenario: Scenario, seed: int, *, form: str, mutant: str | None = None) -> Report:
    """Play it, and judge. With a mutant, the report should hold violations."""
    dose = scenario.full if form == "full" else scenario.short
    began = time.monotonic()
    report = Report(scenario.name, form, seed)
    orders = {**(HURRY if form == "short" else {}), **scenario.orders}
    if form == "short":
        orders["constants"] = HURRY["constants"] | dict(scenario.orders.get("constants", {}))
    environment = {**scenario.environment, **(scenario.hurry if form == "short" else {})}
    if mutant:
        orders["mutant"] = mutant
    stage.fresh(f"{scenario.name}-{form}-{mutant or 'as-it-is'}", orders, environment)
    if mutant:
        dose = replace(dose, within_s=CONTROL_WITHIN_S)
    play = Play(stage, dose, random.Random(f"{seed}:{scenario.name}"))
    try:
        with patch("worker.submit.CLAIM_WITHIN_S", orders.get("constants", {}).get("CLAIM_WITHIN_S", CLAIM_WITHIN_S)):
            scenario.play(play)
        play.healed()
        play.until_done()
        play.until_settled()
        report.seconds_to_recover = round(time.monotonic() - (play.healed_at or began), 1)
        wait_until(lambda: not list(stage.home.glob("spool/*.json")), 10)
    finally:
        deserters = stage.deserters()
        stage.end_all()
    report.seen = play.seen
    # of few jobs a single one is more than 1 %, and breakers in a hurry probe a dead model often
    least = (
        min(scenario.least_success, 0.8) if form == "short" and scenario.least_success < 1 else scenario.least_success
    )
    judge(stage, report, play.ids, exactly_once=scenario.exactly_once, least_success=least)
    if not mutant:
        report.violations += play.missed
    if deserters:
        report.violations.append(f"ended by themselves: {deserters}")
    if left := stage.left():
        report.violations.append(f"processes are left: {left}")
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _nothing_reserved() -> bool:
    try:
        return all(scope.reserved == 0 for scope in ledger().usage())
    except LedgerError:
        return False
