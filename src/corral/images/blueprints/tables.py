"""The tables of blueprints, and the reading of their rows.

Owns column names, indexes and the form in which a failure is stored. Must not hold a rule about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.store.metadata import MetadataTable
from corral.images.blueprints.model import Blueprint, BlueprintState, BlueprintStatus, BlueprintWish
from corral.images.builds.model import BuildFailure, FailureReason

#: What a query or an insert has of a row.
Row = Mapping[str, Any] | sa.RowMapping

#: `seq` is the order of creation. `kept` is false once the image of a deleted one is needed by nothing any more.
BLUEPRINTS: Final = sa.Table(
    "blueprints",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
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
    sa.Index("ix_blueprints_account_id_seq", "account_id", "seq"),
    sa.Index("ix_blueprints_account_id_name_seq", "account_id", "name", "seq"),
    sa.Index("ix_blueprints_build_id", "build_id"),
    sa.Index("ix_blueprints_context_id", "context_id"),
    sa.Index("ix_blueprints_base_id", "base_id"),
    # What the controller looks at: what is not built yet, and what is to be given up.
    sa.Index("ix_blueprints_kept", "state", "status", sqlite_where=sa.text("kept")),
    sqlite_autoincrement=True,
)

BLUEPRINT_METADATA: Final = MetadataTable("blueprint", BLUEPRINTS)


def blueprint_from_row(row: Row) -> Blueprint:
    """A row as the model has it."""
    return Blueprint(
        id=row["id"],
        account_id=row["account_id"],
        wish=BlueprintWish(
            name=row["name"],
            parameters=row["parameters"],
            dockerfile=row["dockerfile"],
            metadata=row["metadata"],
            base_id=row["base_id"],
            build_args=row["build_args"],
            context_id=row["context_id"],
        ),
        status=BlueprintStatus(row["status"]),
        state=BlueprintState(row["state"]),
        created_at_ms=row["created_at_ms"],
        finished_at_ms=row["finished_at_ms"],
        build_id=row["build_id"],
        image=row["image"],
        failure=_failure(row["failure"]) if row["failure"] is not None else None,
    )


def failure_to_json(failure: BuildFailure) -> dict[str, Any]:
    """What the column `failure` holds."""
    return {**asdict(failure), "reason": failure.reason.value}


def _failure(stored: Mapping[str, Any]) -> BuildFailure:
    return BuildFailure(**{**stored, "reason": FailureReason(stored["reason"])})
