"""What the environment says about money and about the ledger's Redis."""

import re
from datetime import tzinfo
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings

from budget.money import MoneyError, usd_to_nano

UNLIMITED = "unlimited"
_NUMBER = re.compile(r"[0-9.eE+-]{1,40}")


def parse_limit(value: Any) -> int | None:
    """nano-USD of a limit as people write it, None for `unlimited`; a `ValueError` says what would be right."""
    text = str(value).strip()
    if text.lower() == UNLIMITED:
        return None
    try:
        # Decimal takes more than people mean: 1_0, and digits of other scripts
        return usd_to_nano(text if _NUMBER.fullmatch(text) else "no number")
    except MoneyError:
        raise ValueError(
            f"{text!r} is no limit; give USD from 0 (blocks everything) to 9007199 with at most nine decimals, "
            f"or '{UNLIMITED}'"
        ) from None


# nano-USD; None means no limit
Limit = Annotated[int | None, BeforeValidator(parse_limit)]


def parse_share(value: Any) -> Decimal:
    """A share as people write it; a `ValueError` says what would be right."""
    try:
        share = Decimal(str(value).strip())
        if 0 < share <= 1:
            return share
    except ArithmeticError:
        pass
    raise ValueError(f"{value!r} is no share; give a number above 0 and up to 1, such as 0.8")


def _zone(value: Any) -> tzinfo:
    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{value!r} is no IANA time zone; give one such as 'UTC' or 'Europe/Berlin'") from None


def _redis_url(value: Any) -> str:
    # not quoted: it may hold a password
    scheme = str(value).partition("://")[0]
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError("is no URL of one Redis; give redis://, rediss:// or unix:// (Sentinel: docs/growing.md)")
    return str(value)


class BreakerSettings(BaseSettings):
    """When a model is left alone for a while, from the environment."""

    breaker_failure_share: Annotated[Decimal, BeforeValidator(parse_share)] = Field(
        Decimal("0.5"), description="The share of failed calls that opens a model's breaker."
    )
    breaker_min_calls: int = Field(10, ge=1, le=10_000, description="Fewer calls than this open no breaker.")
    breaker_window_s: int = Field(60, ge=5, le=3600, description="How far back calls count for a breaker.")
    breaker_cooldown_s: int = Field(
        30, ge=1, le=3600, description="How long an open breaker keeps calls away before it tries one."
    )


class BudgetSettings(BaseSettings):
    """Budgets, from the environment. Limits are USD there and nano-USD here."""

    model_config = {"arbitrary_types_allowed": True, "validate_default": True}

    daily_budget_usd: Limit = Field(
        50, description="What all jobs may cost in a day, in USD; 0 stops everything, `unlimited` lifts it."
    )
    monthly_budget_usd: Limit = Field(1000, description="What all jobs may cost in a month; the same.")
    max_cost_per_user_daily_usd: Limit = Field(5, description="What one user's jobs may cost in a day; the same.")
    cost_alert_threshold: Annotated[Decimal, BeforeValidator(parse_share)] = Field(
        Decimal("0.8"), description="The share of a budget whose use raises the first alert."
    )
    budget_timezone: Annotated[tzinfo, BeforeValidator(_zone)] = Field(
        ZoneInfo("UTC"), description="The IANA time zone in which days and months begin; the same for all workers."
    )
    redis_url: Annotated[str, BeforeValidator(_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,  # it may hold a password
        description="The Redis of the ledger; also broker and results, unless those are set. TLS: docs/security.md.",
    )
