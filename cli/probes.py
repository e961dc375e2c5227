"""What `paymaster doctor` asks of servers: Redis, SQL, the broker, workers and beat. Probes only read."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from budget.money import format_usd
from budget.scopes import SWEPT, WARM
from budget.settings import BudgetSettings
from cli.findings import Finding, error, kind_of, note, ok, place, warning
from cli.stack import ENVIRONMENT_FILE
from db.environment import read_settings

CONNECT_WITHIN_S = 3
WORKERS_WITHIN_S = 2.0
# of maxmemory
NEARLY_FULL = 0.8
# a clock that is off by so much puts calls into another day than the ledger's, and leases end early
SKEWED_S, WRONG_S = 2.0, 30.0
# the sweep comes every five seconds
SWEEP_LATE_S = 60
# of the ledger's Redis: what has just been started with it gets some time to come
YOUNG_S, PATIENCE_S = 60, 20.0
# what the sweeper publishes again is due at most so late
OVERDUE_S = 60
# the rollup comes twice an hour
ROLLED_UP_WITHIN = timedelta(hours=2)


def now() -> float:
    """Seconds since 1970, by the clock of this machine."""
    return time.time()


def _asked(question: Callable[[], Any], enough: Callable[[Any], bool], *, young: bool) -> Any:
    """The answer; a stack that has just been started is asked until it is enough, for a while."""
    give_up = time.monotonic() + (PATIENCE_S if young else 0)
    while not enough(answer := question()) and time.monotonic() < give_up:
        time.sleep(0.5)
    return answer


def _young(told: dict[str, Any]) -> bool:
    return int(told.get("uptime_in_seconds", YOUNG_S)) < YOUNG_S


def _recent(swept: Any) -> bool:
    return swept is not None and now() - float(swept) < SWEEP_LATE_S


def embedded() -> bool:
    """Whether the Redis is the one of a `paymaster up` in this folder."""
    try:
        file = Path(os.environ.get("PAYMASTER_HOME", ".paymaster")) / ENVIRONMENT_FILE
        return bool(json.loads(file.read_text())["REDIS_URL"] == read_settings(BudgetSettings).redis_url)
    except (OSError, ValueError, KeyError):
        return False


def _redis() -> redis.Redis:
    limits = {"socket_timeout": CONNECT_WITHIN_S, "socket_connect_timeout": CONNECT_WITHIN_S}
    return redis.Redis.from_url(read_settings(BudgetSettings).redis_url, decode_responses=True, **limits)


def ledger_redis() -> Iterator[Finding]:
    """The ledger's Redis: whether it answers, may evict, keeps what it has, and has counters that can be trusted."""
    url = read_settings(BudgetSettings).redis_url
    try:
        with _redis() as client:
            told: dict[str, Any] = client.info()
            began = now()
            seconds, microseconds = client.time()
            skew = seconds + microseconds / 1e6 - (began + now()) / 2
            marker: dict[str, str] = client.hgetall(WARM)
            swept = _asked(lambda: client.get(SWEPT), _recent, young=_young(told))
    except (redis.RedisError, OSError, ValueError) as failure:
        yield error(
            "redis", f"{place(url)} gives no usable answer ({kind_of(failure)})",
            "Start it, or set REDIS_URL right. Nothing is spent meanwhile.",
        )  # fmt: skip
        return
    yield ok("redis", f"{place(url)} answers, version {told.get('valkey_version') or told.get('redis_version')}")
    yield from _memory(told)
    yield from _persistence(told)
    yield from _warm(marker, str(told["run_id"]))
    yield _skew("Redis", skew)
    yield from _beat(swept)


def _memory(told: dict[str, Any]) -> Iterator[Finding]:
    limit, policy = int(told.get("maxmemory", 0)), told.get("maxmemory_policy")
    if not limit:
        return
    if policy != "noeviction":
        yield error(
            "redis memory", f"maxmemory-policy is {policy}: it may evict counters, so workers refuse it",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration.",
        )  # fmt: skip
    if (used := int(told.get("used_memory", 0))) > NEARLY_FULL * limit:
        yield warning(
            "redis memory", f"{used / limit:.0%} of maxmemory is used; when it is full, no call is made",
            "Raise maxmemory, or see what else lives in this Redis.",
        )  # fmt: skip


def _persistence(told: dict[str, Any]) -> Iterator[Finding]:
    if embedded():
        yield note("redis persistence", "none, on purpose: the counters are rebuilt from SQL after each start")
    elif not int(told.get("aof_enabled", 0)):
        yield warning(
            "redis persistence", "it keeps no append-only file: a restart loses messages, which the sweep publishes "
            "again, and counters, which are rebuilt from SQL",
            "CONFIG SET appendonly yes, and the same in its configuration, so that a restart costs less.",
        )  # fmt: skip
    if "err" in (told.get("aof_last_write_status"), told.get("rdb_last_bgsave_status")):
        yield error("redis persistence", "its last write to disk failed", "See its log and the space on its disk.")


def _warm(marker: dict[str, str], server: str) -> Iterator[Finding]:
    zone = str(read_settings(BudgetSettings).budget_timezone)
    if not marker or marker.get("server") != server:
        yield error(
            "ledger", "cold: the counters are not rebuilt from SQL, so nothing is spent",
            "The sweep rebuilds them within seconds: see that beat and a worker of `maintenance` run; or "
            "`paymaster budget rebuild`.",
        )  # fmt: skip
    elif marker.get("zone") != zone:
        yield error(
            "ledger", f"its days are those of {marker.get('zone')}, and BUDGET_TIMEZONE is {zone}",
            "Use that zone, or start all workers with the new one and run `paymaster budget rebuild --new-zone`.",
        )  # fmt: skip
    else:
        yield ok("ledger", f"warm, days of {zone}")


def _skew(whose: str, seconds: float) -> Finding:
    if abs(seconds) < SKEWED_S:
        return ok("clock", f"that of {whose} agrees with this machine's")
    way = "ahead of" if seconds > 0 else "behind"
    level = error if abs(seconds) >= WRONG_S else warning
    return level(
        "clock", f"that of {whose} is {abs(seconds):.0f} s {way} this machine's", "Set both by NTP (chrony, timesyncd)."
    )


def _beat(swept: Any) -> Iterator[Finding]:
    if _recent(swept):
        yield ok("beat", "seen")
        return
    yield error(
        "beat", "has never been seen" if swept is None else f"was last seen {now() - float(swept):.0f} s ago",
        "Start `celery -A worker.app beat`, one of it, and a worker of `maintenance`; after a start it takes seconds.",
    )  # fmt: skip


def database() -> Iterator[Finding]:
    """SQL: whether it answers, its schema and its clock, and what its rows say of trouble."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    import db.migrate
    from db.session import engine

    url = engine().url
    sqlite = engine().dialect.name == "sqlite"
    where = str(url.database) if sqlite else place(url.render_as_string(hide_password=True))
    if sqlite and not Path(str(url.database)).exists():
        yield error("database", f"{url.database} does not exist", "Run `paymaster db upgrade`, or set DATABASE_URL.")
        return
    try:
        with engine().execution_options(reading=True).connect() as connection:
            version = MigrationContext.configure(connection).get_current_revision()
            began = now()
            clock = None if sqlite else connection.scalar(text("select extract(epoch from clock_timestamp())"))
            ended = now()
    except SQLAlchemyError as failure:
        yield error(
            "database", f"{where} gives no usable answer ({kind_of(failure)})",
            "Start it, or set DATABASE_URL right. No new call starts meanwhile; what was paid for waits in the spool.",
        )  # fmt: skip
        return
    folder = Path(db.migrate.__file__).with_name("migrations")
    head = ScriptDirectory(str(folder)).get_current_head()
    if clock is not None:
        yield _skew("SQL", float(clock) - (began + ended) / 2)
    if version != head:
        had = f"the schema {version}" if version else "no schema"
        yield error("database", f"{where} has {had}, this code wants {head}", "Run `paymaster db upgrade`.")
        return
    yield ok("database", f"{where} answers, schema {version}")
    try:
        yield from _rows()
    except SQLAlchemyError as failure:
        yield error("database", f"its tables cannot be read ({kind_of(failure)})", "Run `paymaster db upgrade`.")


def _rows() -> Iterator[Finding]:
    from db import rounds
    from db.models import Attempt, CostBasis, Delivery, Job, JobState, utc_now
    from db.session import read

    with read() as session:
        rolled_up = rounds.last(session, rounds.ROLLUP)
        missed = Attempt.settled_at.between(rolled_up, utc_now() - ROLLED_UP_WITHIN)
        not_added = session.scalar(select(Attempt.id).where(missed).limit(1)) is not None
        waits = Job.state.in_((JobState.QUEUED, JobState.WAITING))
        late = session.scalar(select(func.count()).where(waits, Job.due_at < utc_now() - timedelta(seconds=OVERDUE_S)))
        unknown, charged = session.execute(
            select(func.count(), func.coalesce(func.sum(Attempt.cost_nano), 0))
            .where(Attempt.cost_basis == CostBasis.RESERVATION)
        ).one()  # fmt: skip
        given_up = session.scalar(
            select(func.count()).select_from(Delivery).where(Delivery.due_at.is_(None), Delivery.sent_at.is_(None))
        )
    if not_added:
        yield warning(
            "rollup", "calls of hours ago are not added up yet: figures of days and reports are behind",
            "It runs at 7 and 37 past each hour; the log of the worker of `maintenance` says which day fails.",
        )  # fmt: skip
    if late:
        yield warning(
            "jobs", f"{late} are overdue: nobody took them in time",
            "See which queue has no worker, or too few; `paymaster jobs --state queued` lists them.",
        )  # fmt: skip
    if unknown:
        yield warning(
            "costs", f"{unknown} calls of unknown cost are charged at their reservations, {format_usd(int(charged))}",
            "`paymaster budget unknown` lists them, `paymaster budget correct` charges what the bill says.",
        )  # fmt: skip
    if given_up:
        yield warning(
            "alerts", f"{given_up} messages could not be delivered and were given up",
            "`paymaster alerts` shows their errors, `paymaster alerts test` tries the channels.",
        )  # fmt: skip


def broker_and_workers() -> Iterator[Finding]:
    """The broker, and which queues have no worker."""
    from worker.app import app

    url = str(app.conf.broker_read_url or app.conf.broker_url)
    names = set(app.amqp.queues)
    try:
        with app.connection_for_read(connect_timeout=CONNECT_WITHIN_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=CONNECT_WITHIN_S)
            inspect = app.control.inspect(timeout=WORKERS_WITHIN_S, connection=connection)
            replies: Any = _asked(
                lambda: inspect.active_queues() or {}, lambda found: names <= _served(found), young=_started_just_now()
            )
    except Exception as failure:  # each transport has errors of its own
        yield error(
            "broker", f"{place(url)} gives no usable answer ({kind_of(failure)})",
            "Start it, or set CELERY_BROKER_URL or REDIS_URL right. Jobs are accepted, and published when it is back.",
        )  # fmt: skip
        return
    yield ok("broker", f"{place(url)} answers")
    if missing := sorted(names - _served(replies)):
        yield error(
            "workers", f"nobody serves {', '.join(missing)}",
            f"Start `celery -A worker.app worker -Q {','.join(missing)}`; one that just started or is busy "
            "may not have answered yet.",
        )  # fmt: skip
    else:
        yield ok("workers", f"{len(replies)} serve every queue")


def _served(replies: Any) -> set[str]:
    return {queue["name"] for queues in replies.values() for queue in queues}


def _started_just_now() -> bool:
    try:
        with _redis() as client:
            return _young(client.info("server"))
    except (redis.RedisError, OSError, ValueError):
        return False
