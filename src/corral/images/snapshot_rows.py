"""Statements on the rows of snapshots. Each runs in the transaction of its caller.

Owns the change of a status together with its event. Must not wait, and must not talk to a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.store import lists
from corral.devboxes.model import Inheritance
from corral.images.model import Snapshot, SnapshotPage, SnapshotStatus, SnapshotWish
from corral.images.tables import SNAPSHOT_METADATA, SNAPSHOTS, memory_to_json, snapshot_from_row
from corral.runtime.contract import Layer

MAX_PAGE: Final = 5000

#: What lists show: those that can be used, or soon can.
SHOWN: Final = frozenset({SnapshotStatus.IN_PROGRESS, SnapshotStatus.COMPLETE})

_C = SNAPSHOTS.c


def insert(
    connection: sa.Connection,
    snapshot_id: str,
    account_id: str,
    devbox_id: str,
    wish: SnapshotWish,
    env: Mapping[str, str],
    at_ms: int,
    *,
    passing: bool = False,
    remote: str | None = None,
    request: Mapping[str, Any] | None = None,
    blueprint_id: str | None = None,
    memory: Inheritance | None = None,
) -> Snapshot:
    """Write the wish for a snapshot, and the event of it. `remote` is what it is received from, instead of a box."""
    values: dict[str, Any] = {
        "id": snapshot_id,
        "account_id": account_id,
        "devbox_id": devbox_id,
        "name": wish.name,
        "commit_message": wish.commit_message,
        "metadata": dict(wish.metadata),
        "status": SnapshotStatus.IN_PROGRESS.value,
        "message": "",
        "size": 0,
        "still_ms": 0.0,
        "layers": [],
        "env": dict(env),
        "created_at_ms": at_ms,
        "kept": True,
        "passing": passing,
        "remote": remote,
        "request": request,
        "source_blueprint_id": blueprint_id,
        "memory": memory_to_json(memory) if memory is not None else None,
    }
    seq = connection.execute(SNAPSHOTS.insert().returning(_C.seq), values).scalar_one()
    SNAPSHOT_METADATA.insert(connection, account_id, seq, wish.metadata)
    _tell(connection, snapshot_id, SnapshotStatus.IN_PROGRESS, at_ms)
    return snapshot_from_row(values)


def find(connection: sa.Connection, snapshot_id: str) -> Snapshot | None:
    """The snapshot, whoever owns it."""
    row = connection.execute(sa.select(SNAPSHOTS).where(_C.id == snapshot_id)).mappings().first()
    return snapshot_from_row(row) if row is not None else None


def of_remote(connection: sa.Connection, account_id: str, remote: str) -> Snapshot | None:
    """The account's newest snapshot that was received from this remote copy, or is, if it can be used or soon can."""
    query = sa.select(SNAPSHOTS).where(_C.account_id == account_id, _C.remote == remote, _C.status.in_(SHOWN))
    row = connection.execute(query.order_by(_C.seq.desc()).limit(1)).mappings().first()
    return snapshot_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, snapshot_id: str) -> Snapshot:
    """The account's snapshot. Raises errors.NotFound, also for one that belongs to another account."""
    snapshot = find(connection, snapshot_id)
    if snapshot is None or snapshot.account_id != account_id or snapshot.passing:
        raise errors.NotFound(f"cannot find snapshot {snapshot_id}: there is none with this id")
    return snapshot


def require_complete(connection: sa.Connection, account_id: str, snapshot_id: str) -> Snapshot:
    """The account's snapshot, if devboxes can begin as it. Raises errors.NotFound, errors.WrongState."""
    snapshot = get(connection, account_id, snapshot_id)
    if snapshot.status is not SnapshotStatus.COMPLETE:
        why = f": {snapshot.message}" if snapshot.message else ""
        raise errors.WrongState(f"cannot use snapshot {snapshot_id}: it is {snapshot.status.value}{why}")
    return snapshot


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a snapshot."""

    status: SnapshotStatus
    message: str = ""
    size: int = 0
    still_ms: float = 0.0
    layers: tuple[Layer, ...] = ()
    memory: Inheritance | None = None


def finish(connection: sa.Connection, snapshot_id: str, outcome: Outcome, at_ms: int) -> bool:
    """Record how the making ended; False when it was not in progress any more."""
    changes = {
        "status": outcome.status.value,
        "message": outcome.message,
        "size": outcome.size,
        "still_ms": outcome.still_ms,
        "layers": [layer.pack() for layer in outcome.layers],
        "memory": memory_to_json(outcome.memory) if outcome.memory is not None else None,
    }
    return _move(connection, snapshot_id, SnapshotStatus.IN_PROGRESS, changes, at_ms)


def delete(connection: sa.Connection, snapshot_id: str, at_ms: int) -> bool:
    """Record that nobody may use it any more; False when it was not complete."""
    changes = {"status": SnapshotStatus.DELETED.value}
    return _move(connection, snapshot_id, SnapshotStatus.COMPLETE, changes, at_ms)


def forgotten(connection: sa.Connection, snapshot_id: str) -> None:
    """Record that nothing of it is on the host."""
    connection.execute(SNAPSHOTS.update().where(_C.id == snapshot_id), {"kept": False})


def update(connection: sa.Connection, snapshot: Snapshot, given: Mapping[str, Any], at_ms: int) -> Snapshot:
    """Replace name, commit_message or metadata, those that are in `given`."""
    row = connection.execute(sa.select(SNAPSHOTS).where(_C.id == snapshot.id)).mappings().one()
    if "metadata" in given:
        SNAPSHOT_METADATA.replace(connection, snapshot.account_id, row["seq"], given["metadata"])
    if given:
        connection.execute(SNAPSHOTS.update().where(_C.seq == row["seq"]), dict(given))
        events.append(connection, at_ms=at_ms, subject=snapshot.id, kind="snapshot.updated", data=dict(given))
    return snapshot_from_row({**row, **given})


def to_do(connection: sa.Connection) -> list[str]:
    """Snapshots that are to be made or removed, or to be removed soon."""
    states = [SnapshotStatus.IN_PROGRESS, SnapshotStatus.DELETED, SnapshotStatus.ERROR]
    query = sa.select(_C.id).where(_C.kept, _C.status.in_(states) | _C.passing)
    return list(connection.execute(query).scalars())


def kept(connection: sa.Connection) -> set[str]:
    """Snapshots that something on the host may belong to."""
    return set(connection.execute(sa.select(_C.id).where(_C.kept)).scalars())


def layers(connection: sa.Connection) -> set[Layer]:
    """Layers that snapshots on the host are over."""
    found = connection.execute(sa.select(_C.layers).where(_C.kept).distinct()).scalars()
    return {Layer.unpack(packed) for each in found for packed in each}


def in_progress(connection: sa.Connection, devbox_id: str) -> bool:
    """Whether a snapshot of the devbox is being made."""
    query = sa.select(_C.id).where(_C.devbox_id == devbox_id, _C.status == SnapshotStatus.IN_PROGRESS.value).limit(1)
    return connection.execute(query).first() is not None


def of_blueprint(connection: sa.Connection, blueprint_id: str, *, passing: bool) -> list[str]:
    """Snapshots that can be used, or soon can, whose disks lie above the image of the blueprint."""
    conditions = [_C.source_blueprint_id == blueprint_id, _C.status.in_(SHOWN)]
    if not passing:
        conditions.append(_C.passing.is_(False))
    return list(connection.execute(sa.select(_C.id).where(*conditions).order_by(_C.seq)).scalars())


@dataclass(frozen=True, slots=True)
class Filter:
    """Which snapshots of an account a list shows."""

    devbox_id: str | None = None
    blueprint_id: str | None = None
    metadata: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def page(
    connection: sa.Connection, account_id: str, which: Filter, *, limit: int, starting_after: str | None, count: bool
) -> SnapshotPage:
    """One page, newest first. Raises errors.Invalid for a limit out of range and an unknown cursor."""
    conditions = _conditions(account_id, which)
    rows, more, total = lists.newest_first(
        connection,
        SNAPSHOTS,
        account_id,
        conditions,
        noun="snapshot",
        limit=limit,
        most=MAX_PAGE,
        starting_after=starting_after,
        count=count,
    )
    return SnapshotPage(tuple(map(snapshot_from_row, rows)), more, total)


def metadata_keys(connection: sa.Connection, account_id: str) -> list[str]:
    """Different keys, in order, at most a page of them."""
    return SNAPSHOT_METADATA.keys(connection, account_id)[0]


def metadata_values(connection: sa.Connection, account_id: str, key: str) -> list[str]:
    """Different values of a key, in order, at most a page of them."""
    return SNAPSHOT_METADATA.values(connection, account_id, key)[0]


def _conditions(account_id: str, which: Filter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [
        _C.account_id == account_id,
        _C.status.in_(SHOWN),
        _C.passing.is_(False),
    ]
    if which.devbox_id is not None:
        conditions.append(_C.devbox_id == which.devbox_id)
    if which.blueprint_id is not None:
        conditions.append(_C.source_blueprint_id == which.blueprint_id)
    conditions += [SNAPSHOT_METADATA.has(account_id, key, values, _C.seq) for key, values in which.metadata.items()]
    return conditions


def _move(
    connection: sa.Connection, snapshot_id: str, expected: SnapshotStatus, changes: Mapping[str, Any], at_ms: int
) -> bool:
    swap = SNAPSHOTS.update().where(_C.id == snapshot_id, _C.status == expected.value)
    if connection.execute(swap, dict(changes)).rowcount != 1:
        return False
    _tell(connection, snapshot_id, SnapshotStatus(changes["status"]), at_ms)
    return True


def _tell(connection: sa.Connection, snapshot_id: str, status: SnapshotStatus, at_ms: int) -> None:
    events.append(connection, at_ms=at_ms, subject=snapshot_id, kind=f"snapshot.{status.value}")
