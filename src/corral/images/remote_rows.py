"""Statements on the rows of remote copies. Each runs in the transaction of its caller.

Owns the change of a state together with its event, and which copies are still needed. Must not wait.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.images.model import RemoteCopy, RemoteState, SnapshotStatus
from corral.images.tables import REMOTE_COPIES, SNAPSHOTS, copy_from_row

#: Rows that one look takes of what is due.
BATCH: Final = 500

LIVE: Final = (RemoteState.IN_PROGRESS, RemoteState.COMPLETE)

_C = REMOTE_COPIES.c


def insert(
    connection: sa.Connection,
    copy_id: str,
    account_id: str,
    devbox_id: str,
    snapshot_id: str,
    at_ms: int,
    *,
    automatic: bool,
) -> RemoteCopy:
    """Write the wish for a remote copy of a snapshot, and the event of it."""
    values: dict[str, Any] = {
        "id": copy_id,
        "account_id": account_id,
        "devbox_id": devbox_id,
        "snapshot_id": snapshot_id,
        "parent_id": None,
        "state": RemoteState.IN_PROGRESS.value,
        "message": "",
        "automatic": automatic,
        "level": 0,
        "stored": 0,
        "created_at_ms": at_ms,
        "kept": True,
    }
    connection.execute(REMOTE_COPIES.insert(), values)
    _tell(connection, copy_id, RemoteState.IN_PROGRESS, at_ms)
    return copy_from_row(values)


def find(connection: sa.Connection, copy_id: str) -> RemoteCopy | None:
    """The copy, whoever owns it."""
    row = connection.execute(sa.select(REMOTE_COPIES).where(_C.id == copy_id)).mappings().first()
    return copy_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, copy_id: str) -> RemoteCopy:
    """The account's copy. Raises errors.NotFound."""
    found = find(connection, copy_id)
    if found is None or found.account_id != account_id:
        raise errors.NotFound(f"cannot find remote copy {copy_id}: this server made none with this id")
    return found


def of_snapshot(connection: sa.Connection, snapshot_id: str) -> RemoteCopy | None:
    """The copy of this snapshot that is there, or soon is."""
    query = sa.select(REMOTE_COPIES).where(_C.snapshot_id == snapshot_id, _C.state.in_(_values(LIVE)))
    row = connection.execute(query.limit(1)).mappings().first()
    return copy_from_row(row) if row is not None else None


def of_snapshot_done(connection: sa.Connection, snapshot_id: str) -> bool:
    """Whether no copy of this snapshot is on its way."""
    query = sa.select(_C.id).where(_C.snapshot_id == snapshot_id, _C.state == RemoteState.IN_PROGRESS.value)
    return connection.execute(query.limit(1)).first() is None


def unfinished(connection: sa.Connection, account_id: str) -> list[RemoteCopy]:
    """Copies of the account that are on their way, or failed, newest first."""
    states = _values((RemoteState.IN_PROGRESS, RemoteState.ERROR))
    query = sa.select(REMOTE_COPIES).where(_C.account_id == account_id, _C.state.in_(states), _C.kept)
    return [copy_from_row(row) for row in connection.execute(query.order_by(_C.seq.desc()).limit(BATCH)).mappings()]


def parent_for(connection: sa.Connection, copy: RemoteCopy, most: int) -> RemoteCopy | None:
    """The newest copy of the devbox that this one can be the difference from: its snapshot is still on the host.

    None when there is none, or when a row of `most` differences has been reached.
    """
    query = (
        sa.select(REMOTE_COPIES)
        .join(SNAPSHOTS, SNAPSHOTS.c.id == _C.snapshot_id)
        .where(
            _C.devbox_id == copy.devbox_id,
            _C.account_id == copy.account_id,
            _C.id != copy.id,
            _C.state == RemoteState.COMPLETE.value,
            SNAPSHOTS.c.status == SnapshotStatus.COMPLETE.value,
        )
    )
    row = connection.execute(query.order_by(_C.seq.desc()).limit(1)).mappings().first()
    found = copy_from_row(row) if row is not None else None
    return found if found is not None and found.level < most else None


def begin(connection: sa.Connection, copy_id: str, parent: RemoteCopy | None) -> None:
    """Record what the stream is the difference from, before it is sent: that copy is needed from now on."""
    level = 0 if parent is None else parent.level + 1
    changes = {"parent_id": None if parent is None else parent.id, "level": level}
    connection.execute(REMOTE_COPIES.update().where(_C.id == copy_id), changes)


def move(
    connection: sa.Connection,
    copy_id: str,
    expected: tuple[RemoteState, ...],
    state: RemoteState,
    at_ms: int,
    *,
    stored: int | None = None,
    message: str = "",
) -> bool:
    """Change the state, and write the event of it; False when it was in none of `expected`."""
    changes: dict[str, Any] = {"state": state.value, "message": message}
    if stored is not None:
        changes["stored"] = stored
    swap = REMOTE_COPIES.update().where(_C.id == copy_id, _C.state.in_(_values(expected)))
    if connection.execute(swap, changes).rowcount != 1:
        return False
    _tell(connection, copy_id, state, at_ms)
    return True


def is_needed(connection: sa.Connection, copy_id: str) -> bool:
    """Whether another copy, that is not removed, is a difference from this one."""
    query = sa.select(_C.id).where(_C.parent_id == copy_id, _C.kept, _C.state != RemoteState.ERROR.value).limit(1)
    return connection.execute(query).first() is not None


def forgotten(connection: sa.Connection, copy_id: str) -> None:
    """Record that nothing of it is in the object store any more."""
    connection.execute(REMOTE_COPIES.update().where(_C.id == copy_id), {"kept": False})


def to_do(connection: sa.Connection) -> list[str]:
    """Copies that are to be made or removed."""
    states = _values((RemoteState.IN_PROGRESS, RemoteState.DELETED, RemoteState.ERROR))
    return list(connection.execute(sa.select(_C.id).where(_C.kept, _C.state.in_(states))).scalars())


def newest_at_ms(connection: sa.Connection, devbox_id: str) -> int | None:
    """When the devbox's newest copy was asked for."""
    query = sa.select(_C.created_at_ms).where(_C.devbox_id == devbox_id).order_by(_C.seq.desc()).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def spent(connection: sa.Connection, devbox_id: str, keep: int) -> tuple[list[str], list[str]]:
    """Of a devbox's automatic copies: those beyond the newest `keep`, and snapshots that no next one begins at."""
    query = sa.select(REMOTE_COPIES).where(
        _C.devbox_id == devbox_id, _C.automatic, _C.state != RemoteState.DELETED.value
    )
    copies = [copy_from_row(row) for row in connection.execute(query.order_by(_C.seq.desc())).mappings()]
    done = [copy for copy in copies if copy.state is RemoteState.COMPLETE]
    begins = done[0].snapshot_id if done else ""
    ended = [copy for copy in copies if copy.state is not RemoteState.IN_PROGRESS]
    return [copy.id for copy in done[keep:]], [copy.snapshot_id for copy in ended if copy.snapshot_id != begins]


def old(connection: sa.Connection, before_ms: int) -> list[str]:
    """Automatic copies from before this moment; at most BATCH."""
    query = sa.select(_C.id).where(_C.kept, _C.automatic, _C.state == RemoteState.COMPLETE.value)
    return list(connection.execute(query.where(_C.created_at_ms < before_ms).limit(BATCH)).scalars())


def automatic_devboxes(connection: sa.Connection) -> list[tuple[str, str]]:
    """Devboxes with automatic copies whose snapshots are on the host, and those snapshots."""
    query = (
        sa.select(_C.devbox_id, _C.snapshot_id)
        .join(SNAPSHOTS, SNAPSHOTS.c.id == _C.snapshot_id)
        .where(_C.automatic, SNAPSHOTS.c.status == SnapshotStatus.COMPLETE.value)
    )
    return [(row.devbox_id, row.snapshot_id) for row in connection.execute(query)]


def _values(states: tuple[RemoteState, ...]) -> list[str]:
    return [state.value for state in states]


def _tell(connection: sa.Connection, copy_id: str, state: RemoteState, at_ms: int) -> None:
    events.append(connection, at_ms=at_ms, subject=copy_id, kind=f"remote.{state.value}")
