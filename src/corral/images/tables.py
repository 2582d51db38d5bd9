"""The table of snapshots, and the reading of its rows.

Owns column names and indexes. Must not hold a rule about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.store.metadata import MetadataTable
from corral.devboxes.model import Inheritance, KeepMemory
from corral.images.model import RemoteCopy, RemoteState, Snapshot, SnapshotStatus, SnapshotWish
from corral.runtime.contract import Layer

#: What a query or an insert has of a row.
Row = Mapping[str, Any] | sa.RowMapping

#: `seq` is the order of creation. `kept` is false once nothing of it is on the host any more. `passing` ones are made
#: for a fork, shown to nobody, and go once every devbox of the fork has its box.
SNAPSHOTS: Final = sa.Table(
    "snapshots",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("devbox_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("commit_message", sa.Text),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("still_ms", sa.Float, nullable=False),
    sa.Column("layers", sa.JSON, nullable=False),
    sa.Column("env", sa.JSON, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Column("passing", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("remote", sa.Text),
    sa.Column("request", sa.JSON(none_as_null=True)),
    sa.Column("source_blueprint_id", sa.Text),
    sa.Column("memory", sa.JSON(none_as_null=True)),
    sa.Index("ix_snapshots_source_blueprint_id_seq", "source_blueprint_id", "seq"),
    sa.Index("ix_snapshots_account_id_seq", "account_id", "seq"),
    sa.Index("ix_snapshots_devbox_id_seq", "devbox_id", "seq"),
    # What the controller looks at: what is to be made, and what is to be removed.
    sa.Index("ix_snapshots_kept", "status", "id", sqlite_where=sa.text("kept")),
    sqlite_autoincrement=True,
)

SNAPSHOT_METADATA: Final = MetadataTable("snapshot", SNAPSHOTS)


#: `automatic` ones were made because a devbox asked for one every so often. `kept` is false once nothing of it is in
#: the object store any more.
REMOTE_COPIES: Final = sa.Table(
    "remote_copies",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("devbox_id", sa.Text, nullable=False),
    sa.Column("snapshot_id", sa.Text, nullable=False),
    sa.Column("parent_id", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("automatic", sa.Boolean, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("stored", sa.BigInteger, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Index("ix_remote_copies_devbox_id_seq", "devbox_id", "seq"),
    sa.Index("ix_remote_copies_snapshot_id", "snapshot_id"),
    sa.Index("ix_remote_copies_parent_id", "parent_id"),
    sa.Index("ix_remote_copies_kept", "state", "id", sqlite_where=sa.text("kept")),
    sqlite_autoincrement=True,
)


def copy_from_row(row: Row) -> RemoteCopy:
    """A row of `remote_copies` as the model has it."""
    return RemoteCopy(
        id=row["id"],
        account_id=row["account_id"],
        devbox_id=row["devbox_id"],
        snapshot_id=row["snapshot_id"],
        parent_id=row["parent_id"],
        state=RemoteState(row["state"]),
        message=row["message"],
        automatic=row["automatic"],
        level=row["level"],
        stored=row["stored"],
        created_at_ms=row["created_at_ms"],
    )


def memory_to_json(memory: Inheritance) -> dict[str, Any]:
    """What the column `memory` holds."""
    return {**asdict(memory), "executions": list(memory.executions)}


def _memory_from_json(stored: Mapping[str, Any]) -> Inheritance:
    given = {"wanted": KeepMemory(stored["wanted"]), "executions": tuple(stored["executions"])}
    return Inheritance(**{**stored, **given})


def snapshot_from_row(row: Row) -> Snapshot:
    """A row as the model has it."""
    return Snapshot(
        id=row["id"],
        account_id=row["account_id"],
        devbox_id=row["devbox_id"],
        wish=SnapshotWish(row["name"], row["commit_message"], row["metadata"]),
        status=SnapshotStatus(row["status"]),
        message=row["message"],
        size=row["size"],
        still_ms=row["still_ms"],
        layers=tuple(map(Layer.unpack, row["layers"])),
        env=row["env"],
        created_at_ms=row["created_at_ms"],
        passing=row["passing"],
        remote=row.get("remote"),
        request=row.get("request"),
        blueprint_id=row["source_blueprint_id"],
        memory=_memory_from_json(row["memory"]) if row["memory"] is not None else None,
    )
