"""The scopes that every call is checked against, and their names in Redis.

All keys of the ledger share the hash tag `{paymaster}`, so that one script may touch them on a cluster.
"""

from dataclasses import dataclass

from budget.periods import Periods
from budget.settings import BudgetSettings

TAG = "{paymaster}"
WARM = f"{TAG}:warm"
OPEN = f"{TAG}:open"
REBUILDING = f"{TAG}:rebuilding"

# Counters outlive their period by this much, so that late outcomes still settle into it.
KEEP_AFTER_PERIOD_S = 3 * 86_400
KEEP_JOB_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Scope:
    """One counter: what it is called, where it is kept, its limit in nano-USD (None: none), when it starts
    anew (seconds since 1970; None: never) and until when its key is kept."""

    name: str
    key: str
    limit: int | None
    resets_at: int | None
    expires_at: int


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


def global_scopes(periods: Periods, settings: BudgetSettings) -> list[Scope]:
    """The day and the month."""
    keep = KEEP_AFTER_PERIOD_S
    return [
        Scope(
            "daily", day_key(periods.day), settings.daily_budget_usd, periods.day_end, periods.day_end + keep
        ),
        Scope(
            "monthly", month_key(periods.month), settings.monthly_budget_usd, periods.month_end,
            periods.month_end + keep,
        ),
    ]  # fmt: skip


def scopes_of(
    periods: Periods, settings: BudgetSettings, *, user_id: str | None, job_id: str, job_cap: int | None
) -> list[Scope]:
    """Every scope that a call of this job must fit in. `job_cap` in nano-USD; None for jobs without one."""
    scopes = global_scopes(periods, settings)
    if user_id is not None:
        key, ends = user_day_key(user_id, periods.day), periods.day_end
        limit = settings.max_cost_per_user_daily_usd
        scopes.append(Scope("user's daily", key, limit, ends, ends + KEEP_AFTER_PERIOD_S))
    if job_cap is not None:
        scopes.append(Scope("job's", job_key(job_id), job_cap, None, periods.day_end + KEEP_JOB_S))
    return scopes
