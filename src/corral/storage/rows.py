"""Statements on the rows of objects. Each runs in the transaction of its caller.

Owns the change of a state together with its event. Must not wait, and must not touch the object store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.store import lists
from corral.storage.model import ObjectFilter, ObjectPage, ObjectState, ObjectWish, StoredObject
from corral.storage.tables import OBJECT_METADATA, OBJECTS, object_from_row

MAX_PAGE: Final = 5000

#: Rows that one look takes of what is due.
BATCH: Final = 500

#: What a list shows that names no state: those that can be used, or soon can, and those that failed.
SHOWN: Final = (ObjectState.UPLOADING, ObjectState.READ_ONLY, ObjectState.ERROR)
LIVE: Final = (ObjectState.UPLOADING, ObjectState.READ_ONLY)

_C = OBJECTS.c


def insert(
    connection: sa.Connection,
    object_id: str,
    account_id: str,
    wish: ObjectWish,
    at_ms: int,
) -> StoredObject:
    """Write an object that awaits its content, and the event of it."""
    state = ObjectState.UPLOADING
    values: dict[str, Any] = {
        "id": object_id,
        "account_id": account_id,
        "name": wish.name,
        "content_type": wish.content_type.value,
        "metadata": dict(wish.metadata),
        "state": state.value,
        "message": "",
        "size": None,
        "created_at_ms": at_ms,
        "delete_after_ms": None if wish.ttl_ms is None else at_ms + wish.ttl_ms,
        "kept": True,
    }
    seq = connection.execute(OBJECTS.insert().returning(_C.seq), values).scalar_one()
    OBJECT_METADATA.insert(connection, account_id, seq, wish.metadata)
    _tell(connection, object_id, state, at_ms)
    return object_from_row(values)


def find(connection: sa.Connection, object_id: str) -> StoredObject | None:
    """The object, whoever owns it."""
    row = connection.execute(sa.select(OBJECTS).where(_C.id == object_id)).mappings().first()
    return object_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, object_id: str) -> StoredObject:
    """The account's object. Raises errors.NotFound, also for one that belongs to another account."""
    found = find(connection, object_id)
    if found is None or found.account_id != account_id:
        raise errors.NotFound(f"cannot find object {object_id}: there is none with this id")
    return found


def require_whole(
    connection: sa.Connection, account_id: str, object_id: str, at_ms: int, verb: str = "read"
) -> StoredObject:
    """The account's object, if its content can be read. Raises errors.NotFound, errors.WrongState."""
    found = get(connection, account_id, object_id)
    if found.state is not ObjectState.READ_ONLY:
        why = f": {found.message}" if found.message else ""
        raise errors.WrongState(f"cannot {verb} object {object_id}: it is {found.state.value}, not READ_ONLY{why}")
    if found.delete_after_ms is not None and found.delete_after_ms <= at_ms:
        raise errors.WrongState(f"cannot {verb} object {object_id}: its time is over")
    return found


def move(
    connection: sa.Connection,
    object_id: str,
    expected: tuple[ObjectState, ...],
    state: ObjectState,
    at_ms: int,
    *,
    size: int | None = None,
    message: str = "",
) -> bool:
    """Change the state, and write the event of it; False when it was in none of `expected`."""
    changes: dict[str, Any] = {"state": state.value, "message": message}
    if size is not None:
        changes["size"] = size
    swap = OBJECTS.update().where(_C.id == object_id, _C.state.in_([one.value for one in expected]))
    if connection.execute(swap, changes).rowcount != 1:
        return False
    _tell(connection, object_id, state, at_ms)
    return True


def forgotten(connection: sa.Connection, object_id: str) -> None:
    """Record that nothing of its content is kept any more."""
    gone = (ObjectState.DELETED.value, ObjectState.ERROR.value)
    connection.execute(OBJECTS.update().where(_C.id == object_id, _C.state.in_(gone)), {"kept": False})


def to_remove(connection: sa.Connection) -> list[str]:
    """Objects that have ended, and whose content may still be there; at most BATCH."""
    gone = (ObjectState.DELETED.value, ObjectState.ERROR.value)
    query = sa.select(_C.id).where(_C.kept, _C.state.in_(gone)).limit(BATCH)
    return list(connection.execute(query).scalars())


def over(connection: sa.Connection, at_ms: int) -> list[str]:
    """Objects whose time is over; at most BATCH."""
    query = sa.select(_C.id).where(_C.kept, _C.delete_after_ms.is_not(None), _C.delete_after_ms <= at_ms)
    live = query.where(_C.state.in_([one.value for one in LIVE]))
    return list(connection.execute(live.limit(BATCH)).scalars())


def given_up(connection: sa.Connection, created_before_ms: int) -> list[str]:
    """Objects that still await their content, from before this moment; at most BATCH."""
    query = sa.select(_C.id).where(_C.kept, _C.state == ObjectState.UPLOADING.value)
    return list(connection.execute(query.where(_C.created_at_ms < created_before_ms).limit(BATCH)).scalars())


def states(connection: sa.Connection, object_ids: list[str]) -> dict[str, ObjectState]:
    """The states of those of these objects that have a row."""
    query = sa.select(_C.id, _C.state).where(_C.id.in_(object_ids))
    return {row.id: ObjectState(row.state) for row in connection.execute(query)}


def any_kept(connection: sa.Connection) -> bool:
    """Whether the content of any object must be there."""
    query = sa.select(_C.id).where(_C.kept, _C.state == ObjectState.READ_ONLY.value).limit(1)
    return connection.execute(query).first() is not None


def page(
    connection: sa.Connection,
    account_id: str,
    which: ObjectFilter,
    *,
    limit: int,
    starting_after: str | None,
    count: bool,
) -> ObjectPage:
    """One page, newest first. Raises errors.Invalid for a limit out of range and an unknown cursor."""
    conditions = _conditions(account_id, which)
    rows, more, total = lists.newest_first(
        connection,
        OBJECTS,
        account_id,
        conditions,
        noun="object",
        limit=limit,
        most=MAX_PAGE,
        starting_after=starting_after,
        count=count,
    )
    return ObjectPage(tuple(map(object_from_row, rows)), more, total)


def metadata_keys(connection: sa.Connection, account_id: str) -> list[str]:
    """Different keys, in order, at most a page of them."""
    return OBJECT_METADATA.keys(connection, account_id)[0]


def metadata_values(connection: sa.Connection, account_id: str, key: str) -> list[str]:
    """Different values of a key, in order, at most a page of them."""
    return OBJECT_METADATA.values(connection, account_id, key)[0]


def _conditions(account_id: str, which: ObjectFilter) -> list[sa.ColumnElement[bool]]:
    shown = SHOWN if which.state is None else (which.state,)
    conditions: list[sa.ColumnElement[bool]] = [
        _C.account_id == account_id,
        _C.state.in_([one.value for one in shown]),
    ]
    if which.content_type is not None:
        conditions.append(_C.content_type == which.content_type.value)
    if which.name is not None:
        conditions.append(_C.name.contains(which.name, autoescape=True))
    if which.search is not None:
        conditions.append(sa.or_(_C.id == which.search, _C.name.contains(which.search, autoescape=True)))
    return conditions


def _tell(
    connection: sa.Connection, object_id: str, state: ObjectState, at_ms: int, data: Mapping[str, Any] | None = None
) -> None:
    events.append(connection, at_ms=at_ms, subject=object_id, kind=f"object.{state.value.lower()}", data=data)
