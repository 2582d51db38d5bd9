"""Statements on the rows of devboxes. Each runs in the transaction of its caller.

Owns the compare-and-swap of a transition together with its event (invariant 1). Lists are in `listing`.
Must not wait, and must not talk to a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.devboxes import file_calls
from corral.devboxes.model import (
    ENDED,
    Desired,
    Devbox,
    DevboxRequest,
    Kept,
    Memory,
    Observed,
    Reason,
    Transition,
)
from corral.devboxes.tables import (
    DEVBOXES,
    METADATA,
    SSH_KEYS,
    devbox_from_row,
    kept_from_json,
    kept_to_json,
    request_to_json,
)
from corral.runtime.contract import Layer

LIVE: Final = frozenset(Observed) - ENDED

#: While there is no box, or soon none, what was kept of the last one stays.
BOXLESS: Final = frozenset({Observed.PROVISIONING, Observed.SUSPENDING, Observed.SUSPENDED})

_C = DEVBOXES.c

# Built once: the construction of a statement costs more than its execution.
_INSERT: Final = DEVBOXES.insert().returning(_C.seq)
_BY_ID: Final = sa.select(DEVBOXES).where(_C.id == sa.bindparam("id"))
_STATE: Final = sa.select(_C.observed, _C.reason).where(
    _C.id == sa.bindparam("id"), _C.account_id == sa.bindparam("account_id")
)
_SWAP: Final = sa.update(DEVBOXES).where(_C.id == sa.bindparam("key"), _C.version == sa.bindparam("was"))

_FORGET_SSH_KEYS: Final = SSH_KEYS.delete().where(SSH_KEYS.c.devbox_id == sa.bindparam("key"))


def insert(
    connection: sa.Connection,
    devbox_id: str,
    account_id: str,
    request: DevboxRequest,
    at_ms: int,
    *,
    parent_id: str | None = None,
) -> Devbox:
    """Write the wish for a devbox, and the event of it."""
    start = Transition(Observed.PROVISIONING, at_ms, Reason.STARTING)
    values = {
        "id": devbox_id,
        "account_id": account_id,
        "name": request.name,
        "metadata": dict(request.metadata),
        "request": request_to_json(request),
        "snapshot_every": request.snapshot_every,
        "desired": Desired.RUNNING.value,
        "observed": start.status.value,
        "reason": start.reason.value,
        "message": "",
        "observed_at_ms": at_ms,
        "created_at_ms": at_ms,
        "ended_at_ms": None,
        "output_kept": True,
        "transitions": [_stored(start)],
        "version": 0,
        "parent_id": parent_id,
        "kept": None,
        "blueprint_id": request.blueprint_id,
        "memory": None,
    }
    seq = connection.execute(_INSERT, values).scalar_one()
    METADATA.insert(connection, account_id, seq, request.metadata)
    _tell(connection, devbox_id, start, "")
    return devbox_from_row(values)


def find(connection: sa.Connection, devbox_id: str) -> Devbox | None:
    """The devbox, whoever owns it."""
    row = connection.execute(_BY_ID, {"id": devbox_id}).mappings().first()
    return devbox_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, devbox_id: str) -> Devbox:
    """The account's devbox. Raises errors.NotFound, also for one that belongs to another account."""
    devbox = find(connection, devbox_id)
    if devbox is None or devbox.account_id != account_id:
        raise _missing(devbox_id)
    return devbox


def require_running(connection: sa.Connection, account_id: str, devbox_id: str, verb: str) -> None:
    """Raise errors.WrongState `cannot <verb> devbox …` unless the account's devbox runs; errors.NotFound as `get`."""
    row = connection.execute(_STATE, {"id": devbox_id, "account_id": account_id}).first()
    if row is None:
        raise _missing(devbox_id)
    if row.observed != Observed.RUNNING:
        why = f" ({row.reason})" if row.reason else ""
        raise errors.WrongState(f"cannot {verb} devbox {devbox_id}: it is {row.observed}{why}, not running")


@dataclass(frozen=True, slots=True)
class Step:
    """Where a devbox goes: through `statuses`, of which the last one stays."""

    statuses: tuple[Observed, ...]
    reason: Reason = Reason.NONE
    message: str = ""
    desired: Desired | None = None
    memory: Memory | None = None  #: what became of its memory; None leaves it as it was


def transition(
    connection: sa.Connection, devbox_id: str, expected: frozenset[Observed], step: Step, at_ms: int
) -> Devbox | None:
    """Move a devbox on if its state is one of `expected`, with one event for each status; None when it is not.

    The row is compared by its version, so that of two who move it from the same state one gets None.
    """
    row = connection.execute(_BY_ID, {"id": devbox_id}).mappings().first()
    if row is None or Observed(row["observed"]) not in expected:
        return None
    last = len(step.statuses) - 1
    passed = [
        Transition(status, at_ms, step.reason if place == last else Reason.STARTING)
        for place, status in enumerate(step.statuses)
    ]
    ends = step.statuses[-1] in ENDED
    changes = {
        "desired": (step.desired or Desired(row["desired"])).value,
        "observed": step.statuses[-1].value,
        "reason": step.reason.value,
        "message": step.message,
        "observed_at_ms": at_ms,
        "ended_at_ms": at_ms if ends else None,
        "transitions": [*row["transitions"], *(_stored(one) for one in passed)],
        "kept": row["kept"] if step.statuses[-1] in BOXLESS else None,
        "memory": asdict(step.memory) if step.memory is not None else row["memory"],
        "version": row["version"] + 1,
    }
    swapped = connection.execute(_SWAP, {"key": devbox_id, "was": row["version"], **changes})
    if swapped.rowcount != 1:
        return None
    if ends:
        connection.execute(_FORGET_SSH_KEYS, {"key": devbox_id})
    for one in passed:
        _tell(connection, devbox_id, one, step.message, step.memory)
    return devbox_from_row({**row, **changes})


def update(
    connection: sa.Connection, devbox: Devbox, *, name: str | None, metadata: Mapping[str, str] | None, at_ms: int
) -> Devbox:
    """Change name, metadata or both; None leaves one as it is."""
    row = connection.execute(_BY_ID, {"id": devbox.id}).mappings().one()
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name
    if metadata is not None:
        changes["metadata"] = dict(metadata)
        METADATA.replace(connection, devbox.account_id, row["seq"], metadata)
    if changes:
        connection.execute(DEVBOXES.update().where(_C.seq == row["seq"]), changes)
        events.append(connection, at_ms=at_ms, subject=devbox.id, kind="devbox.updated", data=changes)
    return devbox_from_row({**row, **changes})


def keep(connection: sa.Connection, devbox_id: str, kept: Kept | None, memory: Memory | None) -> None:
    """Record that the devbox's disk, and perhaps its memory, is kept apart from its box, or is no more."""
    values = {
        "kept": None if kept is None else kept_to_json(kept),
        "memory": None if memory is None else asdict(memory),
    }
    connection.execute(DEVBOXES.update().where(_C.id == devbox_id, _C.ended_at_ms.is_(None)), values)


def copied_often(connection: sa.Connection) -> list[tuple[Devbox, int]]:
    """Devboxes that run and are copied every so many seconds, with these."""
    query = sa.select(DEVBOXES).where(_C.snapshot_every.is_not(None), _C.ended_at_ms.is_(None))
    running = query.where(_C.observed == Observed.RUNNING.value)
    return [(devbox_from_row(row), int(row["snapshot_every"])) for row in connection.execute(running).mappings()]


def keeping(connection: sa.Connection) -> set[str]:
    """Devboxes whose disk is, or may be, kept apart from a box."""
    kept = _C.kept.is_not(None) | (_C.observed == Observed.SUSPENDING.value)
    return set(connection.execute(sa.select(_C.id).where(_C.ended_at_ms.is_(None), kept)).scalars())


def kept_layers(connection: sa.Connection) -> set[Layer]:
    """Layers below disks that are kept apart from a box."""
    found = connection.execute(sa.select(_C.kept).where(_C.ended_at_ms.is_(None), _C.kept.is_not(None))).scalars()
    return {layer for stored in found for layer in kept_from_json(stored).layers}


def of_blueprint(connection: sa.Connection, blueprint_id: str) -> bool:
    """Whether the image of the blueprint lies below a devbox that has not ended."""
    query = sa.select(_C.id).where(_C.blueprint_id == blueprint_id, _C.ended_at_ms.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def begins_as(connection: sa.Connection, snapshot_id: str) -> bool:
    """Whether a devbox still waits for a box that begins as the snapshot."""
    origin = DEVBOXES.c.request["snapshot_id"].as_string()
    starting = (_C.ended_at_ms.is_(None), _C.observed == Observed.PROVISIONING.value)
    return connection.execute(sa.select(_C.id).where(*starting, origin == snapshot_id).limit(1)).first() is not None


def live(connection: sa.Connection) -> dict[str, Observed]:
    """Every devbox that has not ended, of all accounts."""
    query = sa.select(_C.id, _C.observed).where(_C.ended_at_ms.is_(None))
    return {devbox_id: Observed(observed) for devbox_id, observed in connection.execute(query)}


def with_old_output(connection: sa.Connection, before_ms: int, limit: int = 500) -> list[str]:
    """Devboxes that ended before `before_ms` and whose output is still kept."""
    query = (
        sa.select(_C.id).where(_C.output_kept, _C.ended_at_ms.is_not(None), _C.ended_at_ms < before_ms).limit(limit)
    )
    return list(connection.execute(query).scalars())


def output_forgotten(connection: sa.Connection, devbox_ids: Sequence[str]) -> None:
    """Record that the output of these devboxes is gone, and forget their file calls with it."""
    file_calls.forget(connection, devbox_ids)
    connection.execute(DEVBOXES.update().where(_C.id.in_(devbox_ids)), {"output_kept": False})


def _missing(devbox_id: str) -> errors.NotFound:
    return errors.NotFound(f"cannot find devbox {devbox_id}: there is none with this id")


def _stored(one: Transition) -> list[Any]:
    return [one.status.value, one.at_ms, one.reason.value]


def _tell(
    connection: sa.Connection, devbox_id: str, one: Transition, message: str, memory: Memory | None = None
) -> None:
    data: dict[str, Any] = {"reason": one.reason.value, "message": message}
    if memory is not None:
        data |= {"memory_kept": memory.kept, "memory_message": memory.message}
    events.append(connection, at_ms=one.at_ms, subject=devbox_id, kind=f"devbox.{one.status.value}", data=data)
