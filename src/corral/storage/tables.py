"""The tables of objects and of their metadata, and the reading of their rows.

Owns column names and indexes. Must not hold a rule about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.store.metadata import MetadataTable
from corral.storage.model import ContentType, ObjectState, StoredObject

#: What a query or an insert has of a row.
Row = Mapping[str, Any] | sa.RowMapping

#: `seq` is the order of creation. `kept` is false once nothing of its content is in the object store any more.
OBJECTS: Final = sa.Table(
    "objects",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("delete_after_ms", sa.BigInteger),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Index("ix_objects_account_id_seq", "account_id", "seq"),
    sa.Index("ix_objects_account_id_state_seq", "account_id", "state", "seq"),
    # What the controller looks at: what is to be removed, what is never completed, what has had its time.
    sa.Index("ix_objects_kept", "state", "id", sqlite_where=sa.text("kept")),
    sa.Index("ix_objects_delete_after", "delete_after_ms", sqlite_where=sa.text("kept AND delete_after_ms NOT NULL")),
    sqlite_autoincrement=True,
)

OBJECT_METADATA: Final = MetadataTable("object", OBJECTS)


def object_from_row(row: Row) -> StoredObject:
    """A row as the model has it."""
    return StoredObject(
        id=row["id"],
        account_id=row["account_id"],
        name=row["name"],
        content_type=ContentType(row["content_type"]),
        metadata=row["metadata"],
        state=ObjectState(row["state"]),
        message=row["message"],
        size=row["size"],
        created_at_ms=row["created_at_ms"],
        delete_after_ms=row["delete_after_ms"],
    )
