"""Metadata of the rows of a table, once more in a table of its own, one row a key.

By it a filter is an index search, and so is each key and each value that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from corral.core.store import schema

#: Keys, or values of a key, on one page unless told otherwise: each costs an index search.
PAGE: Final = 1000


class MetadataTable:
    """`<noun>_metadata`, of the rows of `of`, which are known by their `seq`."""

    def __init__(self, noun: str, of: sa.Table) -> None:
        seq = f"{noun}_seq"
        self.table = sa.Table(
            f"{noun}_metadata",
            schema.METADATA,
            sa.Column("account_id", sa.Text, primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("value", sa.Text, primary_key=True),
            sa.Column(seq, sa.ForeignKey(of.c.seq, ondelete="CASCADE"), primary_key=True),
            sa.Index(f"ix_{noun}_metadata_{seq}", seq),
            sqlite_with_rowid=False,
        )
        self._seq = seq
        columns = self.table.c
        self.account_id, self.key, self.value, self.seq = (
            columns.account_id,
            columns["key"],
            columns.value,
            columns[seq],
        )

    def insert(self, connection: sa.Connection, account_id: str, seq: int, metadata: Mapping[str, str]) -> None:
        """Write the metadata of a row that has none."""
        if metadata:
            rows = [
                {"account_id": account_id, "key": key, "value": value, self._seq: seq}
                for key, value in metadata.items()
            ]
            connection.execute(self.table.insert(), rows)

    def replace(self, connection: sa.Connection, account_id: str, seq: int, metadata: Mapping[str, str]) -> None:
        """Write the metadata of a row in the place of what it has."""
        connection.execute(self.table.delete().where(self.seq == seq))
        self.insert(connection, account_id, seq, metadata)

    def has(
        self, account_id: str, key: str, values: str | Sequence[str], seq: sa.ColumnElement[int]
    ) -> sa.ColumnElement[bool]:
        """Whether the row `seq` has this value, or one of these values, of the key."""
        one, any_of = self.table.alias().c, [values] if isinstance(values, str) else values
        return sa.exists().where(
            one.account_id == account_id, one["key"] == key, one.value.in_(any_of), one[self._seq] == seq
        )

    def keys(
        self, connection: sa.Connection, account_id: str, *, limit: int = PAGE, starting_after: str | None = None
    ) -> tuple[list[str], bool]:
        """Different keys, in order, at most `limit`, and whether there are more."""
        return _different(connection, self.key, (self.account_id == account_id,), limit, starting_after)

    def values(
        self,
        connection: sa.Connection,
        account_id: str,
        key: str,
        *,
        limit: int = PAGE,
        starting_after: str | None = None,
    ) -> tuple[list[str], bool]:
        """Different values of a key, in order, at most `limit`, and whether there are more."""
        given = (self.account_id == account_id, self.key == key)
        return _different(connection, self.value, given, limit, starting_after)


def _different(
    connection: sa.Connection,
    column: sa.Column[str],
    given: Sequence[sa.ColumnElement[bool]],
    limit: int,
    starting_after: str | None,
) -> tuple[list[str], bool]:
    """One index search for each: DISTINCT would read the metadata of all rows."""
    found: list[str] = []
    last = starting_after
    while len(found) <= limit:
        further = [] if last is None else [column > last]
        last = connection.execute(sa.select(sa.func.min(column)).where(*given, *further)).scalar()
        if last is None:
            break
        found.append(last)
    return found[:limit], len(found) > limit
