"""The page for people: how everything stands now. Figures are plain data as in a report: what ends in `_nano` is
nano-USD."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from budget.breaker import BreakerState, breakers
from budget.ledger import Ledger
from budget.settings import BudgetSettings
from db import alerts, overview, standing
from db.environment import read_settings
from db.models import Attempt, Job, JobState, utc_now
from db.percentiles import nearest
from db.session import read
from db.statistics import NOT_THE_MODELS
from selection.registry import load_registry
from watch.report import today
from worker.app import app
from worker.strategy import strategy_in_force

DAYS = 30
LATEST_CALLS = 2000
JOBS = 15
ALERTS = 8
# a part is asked again no sooner than that, and for no more than a thirtieth of the time
RENEW_S = 1.5
REST = 30
# days that are over hardly change
PAST_RENEW_S = 60.0
# without one for so long, nothing sends the rounds of maintenance
SWEEP_WITHIN = timedelta(seconds=90)

logger = logging.getLogger(__name__)


class Part:
    """What one part of the system says. Many who look at once cost no more than one; while the part is away, what it
    said last holds."""

    def __init__(self, name: str, ask: Callable[[], Any], every_s: float = RENEW_S) -> None:
        self.name = name
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._due = float("-inf")
        self.value: Any = None
        self.away_since: datetime | None = None

    def look(self) -> Any:
        """What it says, or said last; None if it has said nothing yet."""
        # the first value is worth waiting for; a newer one is made by one while the others go on
        if time.monotonic() >= self._due and self._lock.acquire(blocking=self.value is None):
            try:
                if time.monotonic() >= self._due:
                    self._renew()
            finally:
                self._lock.release()
        return self.value

    def renew(self) -> None:
        """Ask at the next look, whenever it was asked."""
        self._due = float("-inf")

    def _renew(self) -> None:
        begun = time.monotonic()
        try:
            self.value, self.away_since = self._ask(), None
        except Exception as error:
            self.away_since = self.away_since or utc_now()
            logger.warning("the overview cannot ask %s: %s", self.name, type(error).__name__)
        ended = time.monotonic()
        self._due = ended + max(self._every_s, REST * (ended - begun))


class Overview:
    """All parts of the page."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._day = ""
        self._parts = {
            part.name: part
            for part in (
                Part("budgets", self._budgets), Part("queues", _queues), Part("jobs", _jobs), Part("alerts", _alerts),
                Part("today", lambda: _spent(overview.of_day(today().isoformat()))), Part("calls", _latest_calls),
                Part("past", _past, PAST_RENEW_S),
            )
        }  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """The figures of the page, at most some seconds old."""
        day = today()
        if day.isoformat() != self._day:  # at midnight, yesterday becomes a day that is over
            self._day = day.isoformat()
            for name in ("today", "past"):
                self._parts[name].renew()
        said = {name: part.look() for name, part in self._parts.items()}
        settings = read_settings(BudgetSettings)
        spent = [*(said["past"] or []), *(row for row in said["today"] or [] if row.day == day.isoformat())]
        calls = said["calls"] or []
        states = {one["model"]: one for one in (said["budgets"] or {}).get("breakers", [])}
        return {
            "at": utc_now().isoformat(timespec="seconds"),
            "day": day.isoformat(),
            "zone": str(settings.budget_timezone),
            "alert_percent": f"{(settings.cost_alert_threshold * 100).normalize():f}",
            "away": {name: part.away_since for name, part in self._parts.items() if part.away_since},
            "budgets": said["budgets"],
            "queues": said["queues"],
            "jobs": said["jobs"] or [],
            "alerts": said["alerts"] or {"rows": [], "open": 0},
            "days": _by_day(spent, day),
            "spent_nano": sum(int(row.cost) for row in spent),
            "models": _table(spent, calls, "model", states),
            "strategies": _table(spent, calls, "strategy", {}),
            "latest_calls": sum(call.success is not None for call in calls),
        }

    def _budgets(self) -> dict[str, Any]:
        uses = self._ledger.usage()
        held, swept = self._ledger.signs_of_life()
        found = breakers(self._ledger.client, list(load_registry().models))
        late = swept is None or time.time() - swept > SWEEP_WITHIN.total_seconds()
        return {
            "scopes": [
                {"name": use.name, "limit_nano": use.limit, "spent_nano": use.spent, "held_nano": use.reserved,
                 "left_nano": use.left,
                 "resets_at": None if use.resets_at is None else datetime.fromtimestamp(use.resets_at, UTC)}
                for use in uses
            ],
            "calls_under_way": held,
            "swept_at": datetime.fromtimestamp(swept, UTC) if swept else None,
            "sweep_is_late": late,
            "breakers": [
                {"model": one.model, "state": str(one.state), "calls": one.calls, "failures": one.failures,
                 "until": None if one.until is None else datetime.fromtimestamp(one.until, UTC)}
                for one in found
                if one.calls or one.state is not BreakerState.CLOSED
            ],
            "breakers_at_rest": sum(not one.calls and one.state is BreakerState.CLOSED for one in found),
        }  # fmt: skip


def _queues() -> dict[str, Any]:
    names = {name: {"waiting": 0, "running": 0, "deferred": 0, "oldest": None} for name in app.amqp.queues}
    with read() as session:
        strategy = strategy_in_force()
        for row in standing.live_jobs(session):
            queue: dict[str, Any] = names.setdefault(
                row.queue, {"waiting": 0, "running": 0, "deferred": 0, "oldest": None}
            )
            if row.state in standing.IN_QUEUES:
                queue["waiting"] += row.number
                queue["oldest"] = min(filter(None, (queue["oldest"], row.oldest)))
            else:
                queue[str(row.state)] += row.number
    rows: list[dict[str, Any]] = [{"name": name, **counts} for name, counts in names.items()]
    total = {name: sum(row[name] for row in rows) for name in ("waiting", "running", "deferred")}
    oldest = [row["oldest"] for row in rows if row["oldest"]]
    return {"rows": rows, **total, "oldest": min(oldest) if oldest else None, "strategy": strategy}


def _jobs() -> list[dict[str, Any]]:
    with read() as session:
        found = overview.rows(session, overview.latest_jobs(JOBS))
        calls = overview.rows(session, overview.calls_of([job.id for job in found]))
    made = {job.id: {**job._asdict(), "cost_nano": 0, "calls": 0, "model": ""} for job in found}
    for call in calls:
        job = made[call.job_id]
        job["cost_nano"] += call.cost
        job["calls"] += 1
        job["model"] = call.model
    return [*made.values()]


def _alerts() -> dict[str, Any]:
    with read() as session:
        rows = [
            {
                "id": alert.id, "kind": str(alert.kind), "message": alert.message, "created_at": alert.created_at,
                "cleared_at": alert.cleared_at, "day": alert.period if len(alert.period) == len("2026-11-22") else None,
                "undelivered": [way.channel for way in ways if way.sent_at is None and way.tries],
            }
            for alert, ways in alerts.latest(session, ALERTS, only_open=False)
        ]  # fmt: skip
        return {"rows": rows, "open": sum(number for _, number in standing.open_alerts(session))}


def _spent(statement: Any) -> list[Any]:
    with read() as session:
        return list(overview.rows(session, statement))


def _past() -> list[Any]:
    day = today()
    return _spent(overview.rolled_up((day - timedelta(days=DAYS - 1)).isoformat(), day.isoformat()))


def _latest_calls() -> list[Any]:
    with read() as session:
        return list(overview.rows(session, overview.latest_calls(LATEST_CALLS)))


def _by_day(spent: Iterable[Any], last: date) -> list[dict[str, Any]]:
    days = {(last - timedelta(days=ago)).isoformat(): 0 for ago in range(DAYS - 1, -1, -1)}
    for row in spent:
        if row.day in days:
            days[row.day] += int(row.cost)
    return [{"day": day, "cost_nano": cost} for day, cost in days.items()]


def _table(
    spent: Iterable[Any], calls: Iterable[Any], column: str, states: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Dearest first: cost and generations of all days, and how the latest calls did."""
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"cost_nano": 0, "generations": 0})
    for row in spent:
        found = rows[getattr(row, column)]
        found["cost_nano"] += int(row.cost)
        found["generations"] += int(row.generations)
    recent: dict[str, list[Any]] = defaultdict(list)
    for call in calls:
        recent[getattr(call, column)].append(call)
    made = [
        {
            "name": name, **row, "each_nano": row["cost_nano"] // row["generations"] if row["generations"] else None,
            "breaker": states.get(name, {}).get("state"), **_record(recent[name]),
        }
        for name, row in rows.items()
    ]  # fmt: skip
    return sorted(made, key=lambda row: (-row["cost_nano"], row["name"]))


def _record(calls: list[Any]) -> dict[str, Any]:
    times = sorted(call.ms for call in calls if call.success and call.ms is not None)
    scores = [call.quality for call in calls if call.success and call.quality is not None]
    return {
        "calls_succeeded": sum(bool(call.success) for call in calls),
        "calls_failed": sum(call.success is False and call.error_code not in NOT_THE_MODELS for call in calls),
        "quality": sum(scores) / len(scores) if scores else None,
        "p50_ms": nearest(50, times),
        "p95_ms": nearest(95, times),
    }


def of_job(job: Job, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """One job for its page: where its attempts lie between its start and its end, in thousandths."""
    ended = job.finished_at or utc_now()
    whole = max(1.0, (ended - job.created_at) / timedelta(milliseconds=1))

    def place(moment: datetime) -> int:
        return max(0, min(1000, round((moment - job.created_at) / timedelta(milliseconds=1) * 1000 / whole)))

    rows = []
    for one in attempts:
        until = one.created_at + timedelta(milliseconds=one.processing_time_ms or 0) if one.settled_at else ended
        rows.append({"row": one, "from": place(one.created_at), "to": max(place(until), place(one.created_at))})
    return {
        "job": job, "final": JobState(job.state).final, "ended": ended, "attempts": rows,
        "cost_nano": sum(one.cost_nano for one in attempts),
    }  # fmt: skip
