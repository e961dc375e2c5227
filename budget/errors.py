"""What the ledger can answer besides yes. The docstring or the message is what people read."""

from dataclasses import dataclass
from datetime import UTC, datetime

from budget.money import format_usd
from budget.scopes import TITLES


class LedgerError(Exception):
    """The ledger gave no answer that money may be spent on."""


class LedgerDown(LedgerError):
    """The ledger's Redis cannot be reached or answered with an error; no call is made until it is back."""


class LedgerCold(LedgerError):
    """The ledger's Redis is empty or was restarted; no call is made until its counters are rebuilt from SQL."""


@dataclass(eq=False)
class BreakerOpen(Exception):
    """The breaker of a model lets no call through until then (seconds since 1970)."""

    model: str
    until: int

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.until, UTC)
        return f"{self.model} has failed too often lately; it is tried again at {when:%H:%M:%S} UTC"


@dataclass(eq=False)
class BudgetExceeded(Exception):
    """A scope has no room for a call's worst case. Amounts in nano-USD, `resets_at` in seconds since 1970
    (None: waiting does not help)."""

    scope: str
    limit: int
    spent: int
    reserved: int
    needed: int
    resets_at: int | None

    @property
    def never_fits(self) -> bool:
        """Even an untouched budget would not hold this call. A limit of 0 is a stop for everybody, not this."""
        return self.needed > self.limit > 0

    @property
    def code(self) -> str:
        """What the job's error is called: told apart, since only one of them passes by itself."""
        return "budget_never_fits" if self.never_fits else "budget"

    def __str__(self) -> str:
        resets = ""
        if self.resets_at is not None:
            resets = f", resets {datetime.fromtimestamp(self.resets_at, UTC):%Y-%m-%d %H:%M} UTC"
        verdict = "can never fit in" if self.never_fits else "does not fit in what is left of"
        if self.limit == 0:
            verdict = "is stopped by"
        return (
            f"budget: a call of up to {format_usd(self.needed)} {verdict} the {TITLES[self.scope]} "
            f"(limit {format_usd(self.limit)}, spent {format_usd(self.spent)}, "
            f"reserved {format_usd(self.reserved)}{resets})"
        )
