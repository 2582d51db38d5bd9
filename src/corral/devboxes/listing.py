"""Which devboxes a list shows, and the metadata that there is. Each runs in the transaction of its caller.

Owns the choice of an index for a list. Must not write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors
from corral.core.store import metadata as store_metadata
from corral.devboxes import rows
from corral.devboxes.model import Devbox, Observed, Page, Relative
from corral.devboxes.tables import DEVBOXES, METADATA, devbox_from_row

MAX_PAGE: Final = 5000

#: Metadata keys, or values of a key, on one page unless told otherwise.
METADATA_PAGE: Final = store_metadata.PAGE

#: Devboxes of one tree that are listed.
MOST_RELATIVES: Final = 1000

_C = DEVBOXES.c


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devboxes of an account a list shows. A metadata key may have several values, one of which must match."""

    status: Observed | None = None
    name: str | None = None
    metadata: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def page(
    connection: sa.Connection, account_id: str, which: Filter, *, limit: int, starting_after: str | None, count: bool
) -> Page[Devbox]:
    """One page, newest first. Raises errors.Invalid for a limit out of range and an unknown cursor."""
    if not 0 < limit <= MAX_PAGE:
        raise errors.Invalid(f"cannot list devboxes: limit {limit} is not between 1 and {MAX_PAGE}")
    before = None if starting_after is None else _cursor(connection, account_id, starting_after)
    ways = _ways(account_id, which)
    query = sa.union_all(*(way.select(before) for way in ways)).order_by(sa.desc("seq")).limit(limit + 1)
    found = [devbox_from_row(row) for row in connection.execute(query).mappings()]
    total = sum(connection.scalars(way.count()).one() for way in ways) if count else None
    return Page(items=tuple(found[:limit]), has_more=len(found) > limit, total=total)


def metadata_keys(connection: sa.Connection, account_id: str, *, limit: int, starting_after: str | None) -> Page[str]:
    """Different keys, in order. Raises errors.Invalid for a limit out of range."""
    _check_metadata(limit)
    found, more = METADATA.keys(connection, account_id, limit=limit, starting_after=starting_after)
    return Page(items=tuple(found), has_more=more, total=None)


def metadata_values(
    connection: sa.Connection, account_id: str, key: str, *, limit: int, starting_after: str | None
) -> Page[str]:
    """Different values of a key, in order. Raises errors.Invalid for a limit out of range."""
    _check_metadata(limit)
    found, more = METADATA.values(connection, account_id, key, limit=limit, starting_after=starting_after)
    return Page(items=tuple(found), has_more=more, total=None)


def relatives(connection: sa.Connection, devbox: Devbox) -> list[Relative]:
    """The tree that a devbox is in, parents before children, at most MOST_RELATIVES below its root."""
    root = devbox
    for _ in range(MOST_RELATIVES):
        parent = rows.find(connection, root.parent_id) if root.parent_id is not None else None
        if parent is None or parent.account_id != devbox.account_id:
            break
        root = parent
    name, status = root.request.name, root.observed
    found = [Relative(root.id, root.parent_id, name, status, root.created_at_ms)]
    for one in found:
        query = sa.select(_C.id, _C.parent_id, _C.name, _C.observed, _C.created_at_ms).where(_C.parent_id == one.id)
        found += [
            Relative(row.id, row.parent_id, row.name, Observed(row.observed), row.created_at_ms)
            for row in connection.execute(query.order_by(_C.seq).limit(MOST_RELATIVES - len(found) + 1))
        ]
        if len(found) > MOST_RELATIVES:
            break
    return found[:MOST_RELATIVES]


def _check_metadata(limit: int) -> None:
    if not 0 < limit <= MAX_PAGE:
        raise errors.Invalid(f"cannot list metadata: limit {limit} is not between 1 and {MAX_PAGE}")


def _cursor(connection: sa.Connection, account_id: str, devbox_id: str) -> int:
    query = sa.select(_C.seq).where(_C.id == devbox_id, _C.account_id == account_id)
    seq = connection.execute(query).scalar()
    if seq is None:
        raise errors.Invalid(f"cannot list devboxes: starting_after: there is no devbox {devbox_id} to start after")
    return int(seq)


@dataclass(frozen=True, slots=True)
class _Way:
    """One index in the order of `seq`, each of whose rows is a devbox of a list if it meets `conditions`."""

    source: sa.FromClause
    seq: sa.ColumnElement[int]
    conditions: Sequence[sa.ColumnElement[bool]]

    def select(self, before: int | None) -> sa.Select[Any]:
        """The devboxes, of those that are older than `before`."""
        older = [] if before is None else [self.seq < before]
        columns = (column for column in _C if column is not _C.seq)
        return sa.select(self.seq.label("seq"), *columns).select_from(self.source).where(*self.conditions, *older)

    def count(self) -> sa.Select[int]:
        """How many there are."""
        return sa.select(sa.func.count()).select_from(self.source).where(*self.conditions)


def _ways(account_id: str, which: Filter) -> list[_Way]:
    """How to find what a list shows, without reading all that matches before the first page can begin.

    By metadata there is one way for each value that may match: a devbox has one of them only. A name and a state
    that has not ended are rare among all devboxes that there ever were: then metadata is looked at row by row.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if which.status is not None:
        conditions.append(_C.observed == which.status.value)
    if which.name is not None:
        conditions.append(_C.name == which.name)
    metadata = {key: [one] if isinstance(one, str) else [*dict.fromkeys(one)] for key, one in which.metadata.items()}
    if not metadata or which.name is not None or which.status in rows.LIVE:
        has = [METADATA.has(account_id, key, values, _C.seq) for key, values in metadata.items()]
        return [_Way(DEVBOXES, _C.seq, [_C.account_id == account_id, *conditions, *has])]
    first = min(metadata, key=lambda key: len(metadata[key]))
    has = [METADATA.has(account_id, key, values, METADATA.seq) for key, values in metadata.items() if key != first]
    source = METADATA.table.join(DEVBOXES, METADATA.seq == _C.seq)
    mine = [METADATA.account_id == account_id, METADATA.key == first, *conditions, *has]
    return [_Way(source, METADATA.seq, [*mine, METADATA.value == value]) for value in metadata[first]]
