"""Events, devboxes and executions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_subject_seq", "events", ["subject", "seq"])
    _create_devboxes()
    _create_executions()


def _create_devboxes() -> None:
    op.create_table(
        "devboxes",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("observed", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("observed_at_ms", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger),
        sa.Column("output_kept", sa.Boolean, nullable=False),
        sa.Column("transitions", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_devboxes"),
        sa.UniqueConstraint("id", name="uq_devboxes_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_devboxes_account_id_seq", "devboxes", ["account_id", "seq"])
    op.create_index("ix_devboxes_account_id_observed_seq", "devboxes", ["account_id", "observed", "seq"])
    op.create_index("ix_devboxes_account_id_name_seq", "devboxes", ["account_id", "name", "seq"])
    op.create_index("ix_devboxes_live", "devboxes", ["id"], sqlite_where=sa.text("ended_at_ms IS NULL"))
    op.create_index(
        "ix_devboxes_output",
        "devboxes",
        ["ended_at_ms"],
        sqlite_where=sa.text("output_kept AND ended_at_ms IS NOT NULL"),
    )
    op.create_table(
        "devbox_metadata",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("devbox_seq", ROW_NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", "value", "devbox_seq", name="pk_devbox_metadata"),
        sa.ForeignKeyConstraint(
            ["devbox_seq"], ["devboxes.seq"], name="fk_devbox_metadata_devbox_seq", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_devbox_metadata_devbox_seq", "devbox_metadata", ["devbox_seq"])


def _create_executions() -> None:
    op.create_table(
        "executions",
        sa.Column("seq", ROW_NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("devbox_id", sa.Text, nullable=False),
        sa.Column("command_id", sa.Text),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("shell_name", sa.Text),
        sa.Column("attach_stdin", sa.Boolean, nullable=False),
        sa.Column("terminal", sa.JSON),
        sa.Column("user", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("stdout_cut", sa.Boolean, nullable=False),
        sa.Column("stderr_cut", sa.Boolean, nullable=False),
        sa.Column("lost", sa.Boolean, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("seq", name="pk_executions"),
        sa.UniqueConstraint("id", name="uq_executions_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_executions_devbox_id_seq", "executions", ["devbox_id", "seq"])
    op.create_index("uq_executions_devbox_id_command_id", "executions", ["devbox_id", "command_id"], unique=True)
    op.create_index(
        "ix_executions_open", "executions", ["devbox_id", "seq"], sqlite_where=sa.text("ended_at_ms IS NULL")
    )
