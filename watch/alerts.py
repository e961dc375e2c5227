"""What raises alerts: budgets that are used up to a threshold, models that are slow or fail, answers of poor quality.
Every step may run twice, and two at once do no harm: who finds an alert there already leaves it alone."""

import logging
import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from budget.alerts import crossed, threshold_text
from budget.ledger import ledger
from budget.periods import periods_at
from budget.settings import BudgetSettings
from db import alerts, rounds
from db.alerts import AlertKind, Notice
from db.changes import changed_since
from db.environment import read_settings
from db.models import utc_now
from db.objectives import of_models, of_strategies
from db.once import once_per_environment
from db.session import read, write
from watch.channels import Undelivered, send
from watch.settings import AlertSettings

# How long after a call's outcome in SQL the ledger may get it, and how far another machine's clock may be off. An hour,
# as elsewhere, would be too much to look at every 15 seconds.
LATE = timedelta(minutes=10)
OBJECTIVES = (AlertKind.P95, AlertKind.FAILURES, AlertKind.QUALITY)
USERS_AT_ONCE = 500

# how long one round of a channel goes on; the lease of a message outlasts the slowest mail server
ROUND_S = 10.0
LEASE_S = 120.0
FIRST_BACKOFF_S = 15.0
LONGEST_BACKOFF_S = 3600.0
MOST_TRIES = 12

logger = logging.getLogger(__name__)


def look() -> list[str]:
    """One round: raise what the budgets give reason for, hand out what nobody has sent. The channels that have
    something to send."""
    for step in (_look_at_budgets, _look_at_users):
        try:
            step()
        except Exception as error:
            # each is tried again in the next round, and what is raised already must go out
            logger.warning("alerts: %s failed: %s", step.__name__.strip("_"), type(error).__name__)
    while _hand_out():
        pass  # in short transactions: jobs write, too
    with read() as session:
        return list(alerts.due_channels(session))


def _hand_out() -> int:
    with write() as session:
        return alerts.hand_out(session, read_settings(AlertSettings).channels)


def thresholds() -> list[Decimal]:
    """The shares of a budget that raise an alert each, lowest first."""
    more = read_settings(AlertSettings).cost_alert_thresholds
    return sorted({read_settings(BudgetSettings).cost_alert_threshold, *more, Decimal(1)})


def _raise(notices: Iterable[Notice], *, again: bool) -> int:
    """How many are new. Nothing is written where all of them stand already; `again` opens those that were cleared."""
    found = list(notices)
    if not found:
        return 0
    with read() as session:
        there = alerts.keys(session, {one.kind for one in found}, {one.period for one in found}, only_open=again)
    missing = [one for one in found if one.key not in there]
    if not missing:
        return 0
    with write() as session:
        return sum(alerts.raise_alert(session, one) for one in missing)


def _days() -> list[int]:
    """A moment of each day whose budgets are looked at, in seconds since 1970: of today, and for a while after midnight
    of yesterday, whose last calls were seen by nobody yet."""
    midnight = ledger().periods().day_start
    is_young = time.time() - midnight < LATE.total_seconds()
    return [midnight - 1, midnight] if is_young else [midnight]


def _look_at_budgets() -> None:
    zone = read_settings(BudgetSettings).budget_timezone
    for day in _days():
        found = (notice for use in ledger().usage(moment=day) for notice in crossed(use, thresholds(), zone))
        _raise(found, again=False)


@once_per_environment
def _first_look() -> datetime:
    """Since when this process looks: before, another limit or threshold may have been in the environment."""
    return utc_now()


def _look_at_users() -> None:
    """Only users of whom a call has ended since the last round can have crossed anything, unless the limit or the
    thresholds are others now."""
    first, begun = _first_look(), utc_now()
    zone = read_settings(BudgetSettings).budget_timezone
    with read() as session:
        last = rounds.last(session, rounds.ALERTS)
        midnight = datetime.fromtimestamp(periods_at(begun.timestamp(), zone).day_start, UTC)
        if last < max(midnight, first) or changed_since(session, "limit", "user", last - LATE):
            last = midnight
        users = alerts.users_charged(session, last - LATE)
    for day in _days():
        for start in range(0, len(users), USERS_AT_ONCE):
            uses = ledger().usage_of_users(users[start : start + USERS_AT_ONCE], day)
            found = (notice for user, use in uses.items() for notice in crossed(use, thresholds(), zone, user))
            _raise(found, again=False)
    with write() as session:
        rounds.complete(session, rounds.ALERTS, begun)


def look_at_objectives() -> dict[str, int]:
    """Raise what the last calls give reason for, clear what is well again, and all that a period that is over left
    open. Too few calls say nothing, either way."""
    settings = read_settings(AlertSettings)
    periods = periods_at(time.time(), read_settings(BudgetSettings).budget_timezone)
    bad, good = _judge(settings, periods.day)
    raised = _raise(bad, again=True)
    with read() as session:
        well = alerts.keys(session, OBJECTIVES, {periods.day}, only_open=True) & {notice.key for notice in good}
    with write() as session:
        alerts.clear(session, well)
        over = alerts.clear_before(session, {periods.day, periods.month})
    return {"raised": raised, "cleared": len(well), "over": over}


def _judge(settings: AlertSettings, day: str) -> tuple[list[Notice], list[Notice]]:
    """What is bad, and what is good, of all that was measured often enough."""
    since = utc_now() - timedelta(seconds=settings.alert_window_s)
    window = f"the last {settings.alert_window_s // 60} minutes"
    with read() as session:
        models, strategies = of_models(session, since), of_strategies(session, since)
    verdicts: tuple[list[Notice], list[Notice]] = ([], [])

    def judge(kind: AlertKind, subject: str, threshold: str, is_good: bool, message: str) -> None:
        verdicts[is_good].append(Notice(kind, subject, day, threshold, message))

    for row in models:
        name = row.model_name
        if row.timed >= settings.alert_min_samples:
            judge(
                AlertKind.P95, name, str(settings.alert_p95_ms), row.p95_ms <= settings.alert_p95_ms,
                f"{name} is slow: 95 % of its {row.timed} answers of {window} took up to {row.p95_ms / 1000:.1f} s, "
                f"where {settings.alert_p95_ms / 1000:g} s are meant to do. `paymaster strategies` shows the times; "
                "a cheaper strategy or another model is faster.",
            )  # fmt: skip
        if row.calls >= settings.alert_min_samples:
            judge(
                AlertKind.FAILURES, name, threshold_text(settings.alert_failure_share),
                row.failed <= settings.alert_failure_share * row.calls,
                f"{name} fails: {row.failed} of its {row.calls} calls of {window} failed, which is more than "
                f"{100 * settings.alert_failure_share:f} %. Jobs go on with the next model meanwhile. "
                "`paymaster jobs --state failed` shows whom it hit, docs/errors.md what each error means.",
            )  # fmt: skip
    for row in strategies:
        if row.answers >= settings.alert_min_samples:
            judge(
                AlertKind.QUALITY, row.strategy, threshold_text(settings.alert_quality),
                # an average of floats may lie a hair beside what it is
                round(row.quality, 9) >= float(settings.alert_quality),
                f"Answers under the strategy {row.strategy} are poor: {row.answers} of {window} have a quality of "
                f"{row.quality:.2f} on average, below {settings.alert_quality:f}. `paymaster strategies` compares, "
                "`paymaster strategy set NAME` changes the strategy.",
            )  # fmt: skip
    return verdicts[False], verdicts[True]


def deliver(channel: str) -> int:
    """Send what is due on one channel, one after another, until one fails or the round is over; how many were sent. A
    channel that is away costs one wait a round, and nobody else anything."""
    done = 0
    until = time.monotonic() + ROUND_S
    while time.monotonic() < until:
        with write() as session:
            claimed = alerts.claim(session, channel, LEASE_S)
        if claimed is None:
            break
        alert, tries = claimed
        try:
            remark = send(channel, alert)
        except Exception as failure:
            told = str(failure) if isinstance(failure, Undelivered) else f"unforeseen {type(failure).__name__}"
            _try_again(alert.id, channel, tries, told)
            break
        with write() as session:
            alerts.sent(session, alert.id, channel, remark)
        done += 1
    return done


def _try_again(alert_id: int, channel: str, tries: int, told: str) -> None:
    wait_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.5)
    again_at = utc_now() + timedelta(seconds=wait_s) if tries < MOST_TRIES else None
    with write() as session:
        alerts.failed(session, alert_id, channel, told, again_at)
    what = "is tried again" if again_at else f"is given up after {tries} tries"
    logger.warning("alert %d over %s %s: %s", alert_id, channel, what, told)
