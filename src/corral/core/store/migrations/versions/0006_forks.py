"""Which devbox another began as a copy of, snapshots that are only there for it, and what a suspended one keeps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devboxes", sa.Column("parent_id", sa.Text))
    op.create_index("ix_devboxes_parent_id_seq", "devboxes", ["parent_id", "seq"])
    op.add_column("devboxes", sa.Column("kept", sa.JSON(none_as_null=True)))
    op.add_column("snapshots", sa.Column("passing", sa.Boolean, nullable=False, server_default=sa.false()))
