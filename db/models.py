"""The tables: jobs, their attempts (`model_performance_metrics`), the vectors of embed jobs, what people changed, and
what is watched: the daily rollup (`model_cost_tracking`), alerts, reports.

Money is stored as an integer of nano-USD (`…_nano`, exact in every dialect); beside it stands a generated
column in USD with nine decimals, for people and reports.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Computed,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class JobState(StrEnum):
    """Where a job is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for its next attempt
    DEFERRED = "deferred"  # until a budget has room
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class AttemptState(StrEnum):
    """What became of a call. `unknown` is charged at its reservation."""

    CALLING = "calling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CostBasis(StrEnum):
    """How the cost of a call is known."""

    USAGE = "usage"  # the provider said how many tokens it bills
    NOT_BILLED = "not_billed"  # the provider cannot have billed it
    RESERVATION = "reservation"  # nobody knows: charged at the reservation, until somebody does
    BY_HAND = "by_hand"  # a person looked it up


class UTCDateTime(TypeDecorator[datetime]):
    """A moment in UTC: aware in Python, whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        # SQLite keeps no zone; PostgreSQL answers in that of its server
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


def utc_now() -> datetime:
    return datetime.now(UTC)


def _usd(nano_column: str) -> Mapped[Any]:
    return mapped_column(Numeric(20, 9), Computed(f"{nano_column} / 1000000000.0", persisted=True))


class Base(DeclarativeBase):
    """All tables."""


# literal, and the same in the index and in queries: else databases do not see that the index will do
IS_LIVE = text("state IN ('queued', 'running', 'waiting', 'deferred')")
HAS_KEY = text("idempotency_key IS NOT NULL")
NOBODYS = text("user_id IS NULL AND idempotency_key IS NOT NULL")
IS_WHOLE = text("finished_at IS NOT NULL AND pruned_at IS NULL")
IS_UNKNOWN = text("cost_basis = 'reservation'")


class Job(Base):
    """One parse, generate or embed job, from the moment it was accepted. The id is the Celery task id."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[JobState] = mapped_column(String(16), default=JobState.QUEUED)
    queue: Mapped[str] = mapped_column(String(32))
    user_id: Mapped[str | None] = mapped_column(String(64))
    api: Mapped[str | None] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)

    # The strategy, reason, model and complexity of the choice; `model_metadata` is the result's
    # `processing_metadata`. SPEC 5 names these columns.
    model_selection_strategy: Mapped[str | None] = mapped_column(String(32))
    model_metadata: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    total_cost_nano: Mapped[int] = mapped_column(BigInteger, default=0)
    total_cost_usd: Mapped[Any] = _usd("total_cost_nano")

    result: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(Text)

    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    # how often it was claimed, and how often in a row its runner gave no more sign of life
    runs: Mapped[int] = mapped_column(Integer, default=0)
    lost_runs: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    # attempts up to this number are history: the job was started again by hand
    forgiven: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    # the submitter's own name of the job, among those of its user: the same one brings the same job
    idempotency_key: Mapped[str | None] = mapped_column(String(128))

    # since when it waits for a worker, if that is not when it was created: it was handed back, released, or its worker
    # gave no more sign of life
    waiting_since: Mapped[datetime | None] = mapped_column(UTCDateTime)

    # Of a deferred job: what its next call may cost, and the message that goes on with its chain, if it has one.
    needed_nano: Mapped[int | None] = mapped_column(BigInteger)
    message: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    # when its input, its result and its texts were removed: see db/retention.py
    pruned_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    # Who runs the job, and until when without a sign of life. `due_at` is when a job without a runner should
    # have been picked up: past it the sweeper publishes the job again.
    runner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        # two, since no NULL equals another
        Index(
            "uq_jobs_key_of_user",
            "user_id",
            "idempotency_key",
            unique=True,
            sqlite_where=HAS_KEY,
            postgresql_where=HAS_KEY,
        ),
        Index(
            "uq_jobs_key_of_nobody",
            "idempotency_key",
            unique=True,
            sqlite_where=NOBODYS,
            postgresql_where=NOBODYS,
        ),
        Index("ix_jobs_state_due", "state", "due_at"),
        Index("ix_jobs_runner", "runner"),
        Index("ix_jobs_created", "created_at"),
        # counts of what is not over, without a look at the rows
        Index("ix_jobs_live", "state", "queue", "kind", "created_at", sqlite_where=IS_LIVE, postgresql_where=IS_LIVE),
        Index("ix_jobs_whole", "finished_at", sqlite_where=IS_WHOLE, postgresql_where=IS_WHOLE),
        Index("ix_jobs_user_created", "user_id", "created_at"),
    )


class Attempt(Base):
    """One call to a provider: a row from before the request leaves until long after it was paid."""

    __tablename__ = "model_performance_metrics"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int] = mapped_column(Integer)
    part: Mapped[int] = mapped_column(Integer, default=0)
    state: Mapped[AttemptState] = mapped_column(String(16), default=AttemptState.CALLING)

    model_name: Mapped[str] = mapped_column(String(128))
    provider: Mapped[str] = mapped_column(String(32))
    task_type: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(String(64))
    api: Mapped[str | None] = mapped_column(String(64))
    strategy: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(64))

    # The periods that pay, as the ledger chose them when it reserved: `2026-11-22` and `2026-11`.
    budget_day: Mapped[str] = mapped_column(String(10))
    budget_month: Mapped[str] = mapped_column(String(7))
    reserved_nano: Mapped[int] = mapped_column(BigInteger)
    cost_nano: Mapped[int] = mapped_column(BigInteger, default=0)
    cost_basis: Mapped[CostBasis | None] = mapped_column(String(16))
    cost_usd: Mapped[Any] = _usd("cost_nano")

    success: Mapped[bool | None] = mapped_column(Boolean)
    error_class: Mapped[str | None] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(Text)
    tokens_used: Mapped[int] = mapped_column(Integer, default=0)
    input_tokens: Mapped[int] = mapped_column(Integer, default=0)
    output_tokens: Mapped[int] = mapped_column(Integer, default=0)
    cached_tokens: Mapped[int] = mapped_column(Integer, default=0)
    reasoning_tokens: Mapped[int] = mapped_column(Integer, default=0)

    # Performance figures: written unless TRACK_MODEL_PERFORMANCE is off. How long the job waited for a worker before
    # the run that made this attempt, 0 for the later parts of a run; our own work from when the run claimed the job, or
    # the part before was settled, until the request left; the provider's time. docs/performance.md
    queue_time_ms: Mapped[int | None] = mapped_column(Integer)
    overhead_ms: Mapped[int | None] = mapped_column(Integer)
    processing_time_ms: Mapped[int | None] = mapped_column(Integer)
    quality_score: Mapped[float | None] = mapped_column(Float)

    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utc_now)
    # when its cost was written last: by its outcome, a late answer, or a correction
    settled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        # two runners of one job cannot both record an attempt
        UniqueConstraint("job_id", "number", name="uq_attempts_job_number"),
        Index("ix_attempts_month_state", "budget_month", "state"),
        Index("ix_attempts_day", "budget_day"),
        Index("ix_attempts_created", "created_at"),
        Index("ix_attempts_settled", "settled_at"),
        Index("ix_attempts_unknown", "created_at", sqlite_where=IS_UNKNOWN, postgresql_where=IS_UNKNOWN),
    )


class JobVectors(Base):
    """The vectors that one request of an embed job brought: `count` x `dimensions` little-endian float32."""

    __tablename__ = "job_vectors"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[int] = mapped_column(Integer, primary_key=True)
    dimensions: Mapped[int] = mapped_column(Integer)
    count: Mapped[int] = mapped_column(Integer)
    vectors: Mapped[bytes] = mapped_column(LargeBinary)


class Change(Base):
    """What somebody changed by hand while the system ran: `what` is `limit`, `strategy`, `cost` or `retry`, `subject`
    the scope, nothing, the attempt or the job. The latest row of a limit or strategy is the value that holds."""

    __tablename__ = "changes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    what: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(80))
    before: Mapped[str | None] = mapped_column(String(80))
    after: Mapped[str | None] = mapped_column(String(80))
    who: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utc_now)

    __table_args__ = (Index("ix_changes_what_subject", "what", "subject", "id"),)


class DailyCost(Base):
    """The attempts of one day by user, model, kind of job, api and strategy, added up. The day is the one whose budget
    paid. Of what an attempt did not name, the column holds an empty string."""

    __tablename__ = "model_cost_tracking"

    date: Mapped[str] = mapped_column(String(10), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    model_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    task_type: Mapped[str] = mapped_column(String(16), primary_key=True)
    api: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    strategy: Mapped[str] = mapped_column(String(32), primary_key=True)

    total_cost_nano: Mapped[int] = mapped_column(BigInteger)
    total_cost_usd: Mapped[Any] = _usd("total_cost_nano")
    # jobs that got their first answer from this model on this day
    generation_count: Mapped[int] = mapped_column(Integer)
    avg_cost_per_generation: Mapped[Any | None] = mapped_column(
        Numeric(20, 9), Computed("total_cost_nano / 1000000000.0 / NULLIF(generation_count, 0)", persisted=True)
    )
    attempts: Mapped[int] = mapped_column(Integer)
    failures: Mapped[int] = mapped_column(Integer)
    reserved_nano: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)


class Alert(Base):
    """Something that people should know: a budget, or what a model or strategy does, crossed a threshold. One row for a
    subject, period and threshold, however often and by whomever it is seen."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(160))
    period: Mapped[str] = mapped_column(String(10))
    threshold: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utc_now)
    cleared_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        # the period comes early, so that one look finds all of a period
        UniqueConstraint("kind", "period", "subject", "threshold", name="uq_alerts_once"),
        Index("ix_alerts_created", "created_at"),
        Index("ix_alerts_cleared", "cleared_at"),
    )


class Delivery(Base):
    """One alert on its way over one channel. `due_at` is when it is tried next; none once it is sent or given up."""

    __tablename__ = "alert_deliveries"

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True)
    channel: Mapped[str] = mapped_column(String(16), primary_key=True)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime, default=utc_now)
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str | None] = mapped_column(String(200))

    __table_args__ = (Index("ix_deliveries_due", "due_at"),)


class Report(Base):
    """The cost report of one day, as figures; pages are drawn from them."""

    __tablename__ = "reports"

    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    figures: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utc_now)


class Round(Base):
    """When a round of maintenance that may be missed was last begun and ended well: the next one goes on from there."""

    __tablename__ = "rounds"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    begun_at: Mapped[datetime] = mapped_column(UTCDateTime)
