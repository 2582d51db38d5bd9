"""Builds, what needs their images, and the logs of those that have ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store.schema import ROW_NUMBER

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "builds",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("bases", sa.JSON, nullable=False),
        sa.Column("known", sa.JSON, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("devbox_id", sa.Text),
        sa.Column("begins_as", sa.Text),
        sa.Column("kept_as", sa.Text),
        sa.Column("disk_bytes", sa.BigInteger),
        sa.Column("image", sa.Text),
        sa.Column("config", sa.JSON(none_as_null=True)),
        sa.Column("failure", sa.JSON(none_as_null=True)),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("started_at_ms", sa.BigInteger),
        sa.Column("ended_at_ms", sa.BigInteger),
        sa.Column("cleared", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_builds"),
        sa.UniqueConstraint("id", name="uq_builds_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_builds_open", "builds", ["account_id", "key"], unique=True, sqlite_where=sa.text("open"))
    op.create_index("ix_builds_to_do", "builds", ["seq"], sqlite_where=sa.text("NOT cleared"))
    op.create_table(
        "build_uses",
        sa.Column("build_id", sa.Text, nullable=False),
        sa.Column("wanted_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("build_id", "wanted_by", name="pk_build_uses"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "build_logs",
        sa.Column("build_id", sa.Text, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("build_id", name="pk_build_logs"),
    )
