"""The scopes that every call is checked against, and their names in Redis.

All keys of the ledger share the hash tag `{paymaster}`, so that one script may touch them on a cluster.
"""

from dataclasses import dataclass

from budget.periods import Periods
from budget.settings import BudgetSettings

TAG = "{paymaster}"
# the marker: see scripts/checks.lua
WARM = f"{TAG}:warm"
OPEN = f"{TAG}:open"
REBUILDING = f"{TAG}:rebuilding"
# when the sweeper was last here, in seconds since 1970
SWEPT = f"{TAG}:swept"
LEDGER_WROTE = tuple(f"{TAG}:{kind}:*" for kind in ("reservation", "day", "month", "user", "job"))

# Counters outlive their period by this much, so that late outcomes still settle into it.
KEEP_AFTER_PERIOD_S = 3 * 86_400
KEEP_JOB_S = 7 * 86_400


# How a sentence calls each scope. The first three have limits of their own; a job's is its strategy's cap.
TITLES = {"daily": "daily budget", "monthly": "monthly budget", "user": "user's daily budget", "job": "job's cap"}
LIMITED = ("daily", "monthly", "user")


@dataclass(frozen=True, slots=True)
class Scope:
    """One counter: its name in `TITLES`, where it is kept, its limit in nano-USD (None: none), when it starts
    anew (seconds since 1970; None: never) and until when its key is kept."""

    name: str
    key: str
    limit: int | None
    resets_at: int | None
    expires_at: int


def breaker_key(model: str) -> str:
    return f"{TAG}:breaker:{model}"


def reservation_key(attempt_id: str) -> str:
    return f"{TAG}:reservation:{attempt_id}"


def day_key(day: str) -> str:
    return f"{TAG}:day:{day}"


def month_key(month: str) -> str:
    return f"{TAG}:month:{month}"


def user_day_key(user_id: str, day: str) -> str:
    return f"{TAG}:user:{day}:{user_id}"


def job_key(job_id: str) -> str:
    return f"{TAG}:job:{job_id}"


def keys_of(day: str, month: str, user_id: str | None, job_id: str | None) -> tuple[str, ...]:
    """The counters that pay for a call. `job_id` only of jobs that have a cap."""
    keys = [day_key(day), month_key(month)]
    if user_id is not None:
        keys.append(user_day_key(user_id, day))
    if job_id is not None:
        keys.append(job_key(job_id))
    return tuple(keys)


def scopes_of(
    periods: Periods, settings: BudgetSettings, *, user_id: str | None, job_id: str, job_cap: int | None
) -> list[Scope]:
    """Every scope that a call of this job must fit in: the day and the month, the user's day if there is a user, the
    job if it has a cap. `job_cap` in nano-USD."""
    keep_day, keep_month = periods.day_end + KEEP_AFTER_PERIOD_S, periods.month_end + KEEP_AFTER_PERIOD_S
    scopes = [
        Scope("daily", day_key(periods.day), settings.daily_budget_usd, periods.day_end, keep_day),
        Scope("monthly", month_key(periods.month), settings.monthly_budget_usd, periods.month_end, keep_month),
    ]
    if user_id is not None:
        limit = settings.max_cost_per_user_daily_usd
        scopes.append(Scope("user", user_day_key(user_id, periods.day), limit, periods.day_end, keep_day))
    if job_cap is not None:
        scopes.append(Scope("job", job_key(job_id), job_cap, None, periods.month_end + KEEP_JOB_S))
    return scopes
