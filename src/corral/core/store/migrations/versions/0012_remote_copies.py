"""Remote copies of snapshots, and devboxes that are copied again and again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store.schema import ROW_NUMBER

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "remote_copies",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("devbox_id", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("automatic", sa.Boolean, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("stored", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_remote_copies"),
        sa.UniqueConstraint("id", name="uq_remote_copies_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_remote_copies_devbox_id_seq", "remote_copies", ["devbox_id", "seq"])
    op.create_index("ix_remote_copies_snapshot_id", "remote_copies", ["snapshot_id"])
    op.create_index("ix_remote_copies_parent_id", "remote_copies", ["parent_id"])
    op.create_index("ix_remote_copies_kept", "remote_copies", ["state", "id"], sqlite_where=sa.text("kept"))
    op.add_column("snapshots", sa.Column("remote", sa.Text))
    op.add_column("snapshots", sa.Column("request", sa.JSON(none_as_null=True)))
    op.add_column("devboxes", sa.Column("snapshot_every", sa.Integer))
    op.create_index(
        "ix_devboxes_snapshot_every",
        "devboxes",
        ["id"],
        sqlite_where=sa.text("snapshot_every NOT NULL AND ended_at_ms IS NULL"),
    )
