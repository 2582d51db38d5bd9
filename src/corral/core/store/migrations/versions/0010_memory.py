"""What became of a devbox's memory when it was last suspended or resumed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devboxes", sa.Column("memory", sa.JSON(none_as_null=True)))
