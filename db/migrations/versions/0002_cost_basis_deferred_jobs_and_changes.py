"""How costs are known, deferred jobs, and what people changed"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ATTEMPTS = "model_performance_metrics"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("needed_nano", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("message", sa.JSON(none_as_null=True), nullable=True))
    op.add_column(ATTEMPTS, sa.Column("cost_basis", sa.String(length=16), nullable=True))
    op.execute(
        f"UPDATE {ATTEMPTS} SET cost_basis = CASE"
        " WHEN state = 'unknown' THEN 'reservation'"
        " WHEN state = 'succeeded' AND tokens_used = 0 THEN 'reservation'"
        " WHEN cost_nano = 0 THEN 'not_billed'"
        " ELSE 'usage' END"
        " WHERE state <> 'calling'"
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("before", sa.String(length=80), nullable=True),
        sa.Column("after", sa.String(length=80), nullable=True),
        sa.Column("who", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_changes_what_subject", "changes", ["what", "subject", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_changes_what_subject", table_name="changes")
    op.drop_table("changes")
    op.drop_column(ATTEMPTS, "cost_basis")
    op.drop_column("jobs", "message")
    op.drop_column("jobs", "needed_nano")
