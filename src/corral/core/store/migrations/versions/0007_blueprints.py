"""Blueprints, their metadata, and whose image lies below devboxes and snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from corral.core.store.schema import ROW_NUMBER

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blueprints",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("dockerfile", sa.Text, nullable=False),
        sa.Column("build_args", sa.JSON, nullable=False),
        sa.Column("context_id", sa.Text),
        sa.Column("base_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("build_id", sa.Text),
        sa.Column("image", sa.Text),
        sa.Column("failure", sa.JSON(none_as_null=True)),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_blueprints"),
        sa.UniqueConstraint("id", name="uq_blueprints_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_blueprints_account_id_seq", "blueprints", ["account_id", "seq"])
    op.create_index("ix_blueprints_account_id_name_seq", "blueprints", ["account_id", "name", "seq"])
    op.create_index("ix_blueprints_build_id", "blueprints", ["build_id"])
    op.create_index("ix_blueprints_context_id", "blueprints", ["context_id"])
    op.create_index("ix_blueprints_base_id", "blueprints", ["base_id"])
    op.create_index("ix_blueprints_kept", "blueprints", ["state", "status"], sqlite_where=sa.text("kept"))
    op.create_table(
        "blueprint_metadata",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("blueprint_seq", ROW_NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", "value", "blueprint_seq", name="pk_blueprint_metadata"),
        sa.ForeignKeyConstraint(
            ["blueprint_seq"], ["blueprints.seq"], name="fk_blueprint_metadata_blueprint_seq", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_blueprint_metadata_blueprint_seq", "blueprint_metadata", ["blueprint_seq"])
    op.add_column("devboxes", sa.Column("blueprint_id", sa.Text))
    op.create_index(
        "ix_devboxes_live_blueprint_id", "devboxes", ["blueprint_id"], sqlite_where=sa.text("ended_at_ms IS NULL")
    )
    op.add_column("snapshots", sa.Column("source_blueprint_id", sa.Text))
    op.create_index("ix_snapshots_source_blueprint_id_seq", "snapshots", ["source_blueprint_id", "seq"])
