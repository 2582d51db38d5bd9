"""Stored objects, and their metadata."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store.schema import ROW_NUMBER

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "objects",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("delete_after_ms", sa.BigInteger),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_objects"),
        sa.UniqueConstraint("id", name="uq_objects_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_objects_account_id_seq", "objects", ["account_id", "seq"])
    op.create_index("ix_objects_account_id_state_seq", "objects", ["account_id", "state", "seq"])
    op.create_index("ix_objects_kept", "objects", ["state", "id"], sqlite_where=sa.text("kept"))
    op.create_index(
        "ix_objects_delete_after",
        "objects",
        ["delete_after_ms"],
        sqlite_where=sa.text("kept AND delete_after_ms NOT NULL"),
    )
    op.create_table(
        "object_metadata",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("object_seq", ROW_NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", "value", "object_seq", name="pk_object_metadata"),
        sa.ForeignKeyConstraint(
            ["object_seq"], ["objects.seq"], name="fk_object_metadata_object_seq", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_object_metadata_object_seq", "object_metadata", ["object_seq"])
