"""Retention, and indexes for the pages of one user and for costs that nobody knows"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True))
    whole = sa.text("finished_at IS NOT NULL AND pruned_at IS NULL")
    op.create_index("ix_jobs_whole", "jobs", ["finished_at"], sqlite_where=whole, postgresql_where=whole)
    op.create_index("ix_jobs_user_created", "jobs", ["user_id", "created_at"])
    unknown = sa.text("cost_basis = 'reservation'")
    op.create_index(
        "ix_attempts_unknown", "model_performance_metrics", ["created_at"],
        sqlite_where=unknown, postgresql_where=unknown,
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_unknown", table_name="model_performance_metrics")
    op.drop_index("ix_jobs_user_created", table_name="jobs")
    op.drop_index("ix_jobs_whole", table_name="jobs")
    op.drop_column("jobs", "pruned_at")
