"""Snapshots of devboxes' disks, and their metadata."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store.schema import ROW_NUMBER

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("devbox_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("commit_message", sa.Text),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("still_ms", sa.Float, nullable=False),
        sa.Column("layers", sa.JSON, nullable=False),
        sa.Column("env", sa.JSON, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_snapshots"),
        sa.UniqueConstraint("id", name="uq_snapshots_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_snapshots_account_id_seq", "snapshots", ["account_id", "seq"])
    op.create_index("ix_snapshots_devbox_id_seq", "snapshots", ["devbox_id", "seq"])
    op.create_index("ix_snapshots_kept", "snapshots", ["status", "id"], sqlite_where=sa.text("kept"))
    op.create_table(
        "snapshot_metadata",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("snapshot_seq", ROW_NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", "value", "snapshot_seq", name="pk_snapshot_metadata"),
        sa.ForeignKeyConstraint(
            ["snapshot_seq"], ["snapshots.seq"], name="fk_snapshot_metadata_snapshot_seq", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_snapshot_metadata_snapshot_seq", "snapshot_metadata", ["snapshot_seq"])
