"""Keys with which devboxes are entered by SSH."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store import schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ssh_keys",
        sa.Column("seq", schema.ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("devbox_id", sa.Text, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("api_key_id", sa.Text, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("seq", name="pk_ssh_keys"),
        sa.UniqueConstraint("id", name="uq_ssh_keys_id"),
        sa.UniqueConstraint("public_key", name="uq_ssh_keys_public_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ssh_keys_devbox_id_seq", "ssh_keys", ["devbox_id", "seq"])
