"""The daily rollup, alerts and their deliveries, reports, rounds; queue and overhead times of attempts"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# a key belongs to its user
KEYS = {
    "uq_jobs_key_of_user": (["user_id", "idempotency_key"], "idempotency_key IS NOT NULL"),
    "uq_jobs_key_of_nobody": (["idempotency_key"], "user_id IS NULL AND idempotency_key IS NOT NULL"),
}
INDEXES = {"ix_attempts_day": "budget_day", "ix_attempts_created": "created_at", "ix_attempts_settled": "settled_at"}


def upgrade() -> None:
    for name in ("queue_time_ms", "overhead_ms"):
        op.add_column("model_performance_metrics", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True))
    for name, column in INDEXES.items():
        op.create_index(name, "model_performance_metrics", [column])
    op.drop_index("uq_jobs_idempotency_key", table_name="jobs")
    for name, (columns, where) in KEYS.items():
        op.create_index(
            name, "jobs", columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    is_live = sa.text("state IN ('queued', 'running', 'waiting', 'deferred')")
    op.create_index(
        "ix_jobs_live", "jobs", ["state", "queue", "kind", "created_at"],
        sqlite_where=is_live, postgresql_where=is_live,
    )
    op.create_table(
        "model_cost_tracking",
        sa.Column("date", sa.String(length=10), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("model_name", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=16), nullable=False),
        sa.Column("api", sa.String(length=64), nullable=False),
        sa.Column("strategy", sa.String(length=32), nullable=False),
        sa.Column("total_cost_nano", sa.BigInteger(), nullable=False),
        sa.Column(
            "total_cost_usd", sa.Numeric(precision=20, scale=9),
            sa.Computed("total_cost_nano / 1000000000.0", persisted=True), nullable=True,
        ),
        sa.Column("generation_count", sa.Integer(), nullable=False),
        sa.Column(
            "avg_cost_per_generation", sa.Numeric(precision=20, scale=9),
            sa.Computed("total_cost_nano / 1000000000.0 / NULLIF(generation_count, 0)", persisted=True), nullable=True,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("date", "user_id", "model_name", "task_type", "api", "strategy"),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=160), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("threshold", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cleared_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "period", "subject", "threshold", name="uq_alerts_once"),
    )
    op.create_index("ix_alerts_created", "alerts", ["created_at"])
    op.create_index("ix_alerts_cleared", "alerts", ["cleared_at"])
    op.create_table(
        "alert_deliveries",
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("alert_id", "channel"),
    )
    op.create_index("ix_deliveries_due", "alert_deliveries", ["due_at"])
    op.create_table(
        "reports",
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
    op.create_table(
        "rounds",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    for table in ("rounds", "reports", "alert_deliveries", "alerts", "model_cost_tracking"):
        op.drop_table(table)
    op.drop_index("ix_jobs_live", table_name="jobs")
    for name in KEYS:
        op.drop_index(name, table_name="jobs")
    # a key that two users have cannot be told apart there
    op.execute(
        "UPDATE jobs SET idempotency_key = NULL WHERE idempotency_key IN (SELECT idempotency_key FROM jobs "
        "WHERE idempotency_key IS NOT NULL GROUP BY idempotency_key HAVING count(*) > 1)"
    )
    op.create_index("uq_jobs_idempotency_key", "jobs", ["idempotency_key"], unique=True)
    for name in INDEXES:
        op.drop_index(name, table_name="model_performance_metrics")
    op.drop_column("jobs", "waiting_since")
    for name in ("overhead_ms", "queue_time_ms"):
        op.drop_column("model_performance_metrics", name)
