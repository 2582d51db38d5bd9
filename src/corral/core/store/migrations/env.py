"""Alembic's entry: runs the migrations on the connection and in the transaction that the caller has opened."""

from __future__ import annotations

from alembic import context

from corral.core.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.METADATA,
    transactional_ddl=False,  # the caller's transaction is the only one
    render_as_batch=True,
)
context.run_migrations()
