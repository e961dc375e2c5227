"""A ledger in plain Python that the real one is compared with: what it must answer, and every key that it must hold.

It knows both sides of an attempt, SQL's (`basis`, `cost`) and Redis' (`state`, `reserved`, `spent`, `listed`), since a
command or a reply may be lost between them. It shares no code with the ledger.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any

DAY_S = 86_400
MOST = 9_007_199_254_740_991
TAG = "{paymaster}"


@dataclass
class Row:
    """One attempt. `basis` is None before SQL knows it and `calling` until it has ended."""

    attempt: str
    amount: int
    job: str
    user: str | None
    day: str
    month: str
    keys: tuple[str, ...]
    basis: str | None = None
    cost: int = 0
    state: str | None = "open"
    charged: int | None = None
    reserved: int = 0
    spent: int = 0
    listed: float | None = None
    gone_at: float = 0.0

    @property
    def reservation(self) -> str:
        return f"{TAG}:reservation:{self.attempt}"


@dataclass
class Reference:
    """The ledger's state. `limits` are the settings', None is no limit; `live` those that were set while running,
    as the marker has them, and `changes` as SQL has them; `counters` says when each counter's key goes."""

    zone: tzinfo
    limits: dict[str, int | None]
    server: str
    warm: bool = False
    live: dict[str, int] = field(default_factory=dict)
    version: int = 0
    changes: list[tuple[str, int | None]] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    final_jobs: set[str] = field(default_factory=set)

    def limits_in_force(self) -> dict[str, int]:
        """The limits by hand, as SQL says."""
        return {name: limit for name, limit in dict(self.changes).items() if limit is not None}

    def standing(self, key: str) -> tuple[int, int]:
        """(spent, reserved) of a counter: the sums of the rows that count there."""
        mine = [row for row in self.rows.values() if key in row.keys] if key in self.counters else []
        return sum(row.spent for row in mine), sum(row.reserved for row in mine)

    def scopes(self, now: float, user: str | None, job: str, cap: int | None) -> list[tuple[str, str, int, float]]:
        """name, key, limit, end of the key"""
        local = datetime.fromtimestamp(now, self.zone)
        day, month = f"{local:%Y-%m-%d}", f"{local:%Y-%m}"
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        tomorrow = midnight.timestamp()
        first = midnight.replace(day=1) if local.month != midnight.month else midnight.replace(day=28)
        while first.month == local.month:
            first += timedelta(days=1)
        keep_month = first.timestamp() + 3 * DAY_S
        found = [
            ("daily", f"{TAG}:day:{day}", self.limit("daily"), tomorrow + 3 * DAY_S),
            ("monthly", f"{TAG}:month:{month}", self.limit("monthly"), keep_month),
        ]
        if user is not None:
            found.append(("user", f"{TAG}:user:{day}:{user}", self.limit("user"), tomorrow + 3 * DAY_S))
        if cap is not None:
            found.append(("job", f"{TAG}:job:{job}", cap, tomorrow + 7 * DAY_S))
        return found

    def limit(self, name: str) -> int:
        limit = self.live.get(name, self.limits[name])
        return MOST if limit is None else limit

    def reserve(
        self, now: float, attempt: str, amount: int, user: str | None, job: str, cap: int | None, lease: int
    ) -> tuple[Any, ...]:
        if not self.warm:
            return ("cold",)
        row = self.rows.get(attempt)
        if row and row.state:
            return ("reserved", attempt, row.amount, row.keys) if row.state == "open" else ("down",)
        scopes = self.scopes(now, user, job, cap)
        for name, key, limit, _ in scopes:
            spent, reserved = self.standing(key)
            if limit == 0 or spent + reserved + amount > limit:
                return ("over", name, limit, spent, reserved)
        for _, key, _, end in scopes:
            self.counters.setdefault(key, end)
        keys = tuple(key for _, key, _, _ in scopes)
        day, month = keys[0].rpartition(":")[2], keys[1].rpartition(":")[2]
        self.rows[attempt] = Row(
            attempt, amount, job, user, day, month, keys, reserved=amount, listed=int(now) + lease, gone_at=scopes[1][3]
        )
        return ("reserved", attempt, amount, keys)

    def end(self, now: float, how: str, row: Row, charge: int) -> str | tuple[str]:
        """settle, release, expire or correct; returns the state that stands."""
        if not self.warm:
            return ("cold",)
        if row.state is None:
            return "absent"
        if row.state == "open" and how == "correct":
            return "open"
        if row.state != "open":
            row.listed = None
        closes = {"open": ("settle", "release", "expire"), "expired": ("settle", "release", "correct")}
        if how in closes.get(row.state, ("correct",)):
            row.state = {"settle": "settled", "correct": "settled", "release": "released", "expire": "expired"}[how]
            row.charged = row.spent = {"release": 0, "expire": row.amount}.get(how, charge)
            row.reserved, row.listed, row.gone_at = 0, None, now + DAY_S
        return row.state

    def extend(self, now: float, row: Row, lease: int) -> str | tuple[str]:
        if not self.warm:
            return ("cold",)
        if row.state == "open":
            row.listed = int(now) + lease
        return row.state or "absent"

    def take_limits(self, limits: dict[str, int], version: int) -> None:
        if self.warm and version >= self.version:
            self.live, self.version = dict(limits), version

    def figures(self, now: float) -> tuple[dict[str, tuple[int, int]], dict[str, Row]]:
        """What Redis should hold by SQL: counters, and the reservations whose outcome may come yet."""
        (_, day, _, _), (_, month, _, _) = self.scopes(now, None, "", None)
        today, this_month = day.rpartition(":")[2], month.rpartition(":")[2]
        recorded = [row for row in self.rows.values() if row.basis]
        counters: dict[str, tuple[int, int]] = {}
        for row in recorded:
            for key in row.keys:
                kind = key.split(":")[1]
                if (
                    (kind == "month" and row.month < this_month)
                    or (kind in ("day", "user") and row.day < today)
                    or (kind == "job" and row.job in self.final_jobs)
                ):
                    continue
                spent, reserved = counters.get(key, (0, 0))
                counters[key] = spent + row.cost, reserved + (row.amount if row.basis == "calling" else 0)
        open_yet = {
            row.attempt: row
            for row in recorded
            if row.basis == "calling" or (row.basis == "reservation" and row.month >= this_month)
        }
        return counters, open_yet

    def rebuild(self, now: float) -> None:
        counters, open_yet = self.figures(now)
        keep = self.scopes(now, None, "", None)[1][3] + 4 * DAY_S
        self.counters = dict.fromkeys(counters, keep)
        self.rows = {attempt: row for attempt, row in self.rows.items() if row.basis}
        for row in self.rows.values():
            row.state, row.charged, row.listed = None, None, None
            row.spent, row.reserved = row.cost, row.amount if row.basis == "calling" else 0
        for row in open_yet.values():
            is_open = row.basis == "calling"
            row.state, row.charged = ("open", None) if is_open else ("expired", row.cost)
            row.listed, row.gone_at = 0, keep if is_open else now + DAY_S
        self.live, self.version, self.warm = self.limits_in_force(), len(self.changes), True

    def lose(self, everything: bool) -> None:
        self.warm, self.live, self.version = False, {}, 0
        if everything:
            self.counters = {}
            for row in self.rows.values():
                row.state = row.charged = row.listed = None

    def tick(self, now: float) -> None:
        """Let the keys go whose time is over."""
        self.counters = {key: end for key, end in self.counters.items() if end > now}
        for row in self.rows.values():
            if row.state and row.gone_at <= now:
                row.state = row.charged = None

    def content(self) -> dict[str, tuple[dict[str, str], float | None]]:
        """All keys: what each holds, and when it goes (None: never)."""
        found: dict[str, tuple[dict[str, str], float | None]] = {}
        if self.warm:
            marker = {"server": self.server, "zone": str(self.zone), "version": str(self.version)}
            found[f"{TAG}:warm"] = (marker | {name: str(limit) for name, limit in self.live.items()}, None)
        if listed := {row.reservation: str(row.listed) for row in self.rows.values() if row.listed is not None}:
            found[f"{TAG}:open"] = (listed, None)
        for key, end in self.counters.items():
            spent, reserved = self.standing(key)
            found[key] = ({"spent": str(spent), "reserved": str(reserved)}, end)
        for row in self.rows.values():
            if row.state:
                fields = {"amount": str(row.amount), "state": row.state, "scopes": "\n".join(row.keys)}
                charged = {} if row.charged is None else {"charged": str(row.charged)}
                found[row.reservation] = (fields | charged, row.gone_at)
        return found
