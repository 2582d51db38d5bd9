"""Forks that begin with their parent's memory: what became of it, and whose copies their executions are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("memory", sa.JSON(none_as_null=True)))
    op.add_column("executions", sa.Column("parent_id", sa.Text))
