"""Idempotency keys, lost runs, jobs started again"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lost_runs", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("forgiven", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("idempotency_key", sa.String(length=128), nullable=True))
    op.create_index("uq_jobs_idempotency_key", "jobs", ["idempotency_key"], unique=True)


def downgrade() -> None:
    op.drop_index("uq_jobs_idempotency_key", table_name="jobs")
    op.drop_column("jobs", "idempotency_key")
    op.drop_column("jobs", "forgiven")
    op.drop_column("jobs", "lost_runs")
