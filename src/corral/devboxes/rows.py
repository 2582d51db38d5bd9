"""Statements on the rows of devboxes. Each runs in the transaction of its caller.

Owns the compare-and-swap of a transition together with its event (invariant 1), and the queries of lists.
Must not wait, and must not talk to a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.devboxes.model import ENDED, Desired, Devbox, DevboxRequest, Observed, Page, Reason, Transition
from corral.devboxes.tables import DEVBOXES, METADATA, devbox_from_row, request_to_json

MAX_PAGE: Final = 5000

#: Metadata keys, or values of a key, that are listed.
MOST_METADATA: Final = 1000
LIVE: Final = frozenset(Observed) - ENDED

_C = DEVBOXES.c

# Built once: the construction of a statement costs more than its execution.
_INSERT: Final = DEVBOXES.insert().returning(_C.seq)
_BY_ID: Final = sa.select(DEVBOXES).where(_C.id == sa.bindparam("id"))
_STATE: Final = sa.select(_C.observed, _C.reason).where(
    _C.id == sa.bindparam("id"), _C.account_id == sa.bindparam("account_id")
)
_SWAP: Final = sa.update(DEVBOXES).where(_C.id == sa.bindparam("key"), _C.version == sa.bindparam("was"))


def insert(connection: sa.Connection, devbox_id: str, account_id: str, request: DevboxRequest, at_ms: int) -> Devbox:
    """Write the wish for a devbox, and the event of it."""
    start = Transition(Observed.PROVISIONING, at_ms, Reason.STARTING)
    values = {
        "id": devbox_id,
        "account_id": account_id,
        "name": request.name,
        "metadata": dict(request.metadata),
        "request": request_to_json(request),
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
    }
    seq = connection.execute(_INSERT, values).scalar_one()
    _insert_metadata(connection, account_id, seq, request.metadata)
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
        "version": row["version"] + 1,
    }
    swapped = connection.execute(_SWAP, {"key": devbox_id, "was": row["version"], **changes})
    if swapped.rowcount != 1:
        return None
    for one in passed:
        _tell(connection, devbox_id, one, step.message)
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
        connection.execute(METADATA.delete().where(METADATA.c.devbox_seq == row["seq"]))
        _insert_metadata(connection, devbox.account_id, row["seq"], metadata)
    if changes:
        connection.execute(DEVBOXES.update().where(_C.seq == row["seq"]), changes)
        events.append(connection, at_ms=at_ms, subject=devbox.id, kind="devbox.updated", data=changes)
    return devbox_from_row({**row, **changes})


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
    conditions = _conditions(account_id, which)
    after = [] if starting_after is None else [_C.seq < _cursor(connection, account_id, starting_after)]
    query = sa.select(DEVBOXES).where(*conditions, *after).order_by(_C.seq.desc()).limit(limit + 1)
    found = [devbox_from_row(row) for row in connection.execute(query).mappings()]
    total = None
    if count:
        total = connection.execute(sa.select(sa.func.count()).select_from(DEVBOXES).where(*conditions)).scalar_one()
    return Page(items=tuple(found[:limit]), has_more=len(found) > limit, total=total)


def metadata_keys(connection: sa.Connection, account_id: str) -> list[str]:
    """Different keys, in order, at most MOST_METADATA."""
    return _distinct(connection, METADATA.c.key, METADATA.c.account_id == account_id)


def metadata_values(connection: sa.Connection, account_id: str, key: str) -> list[str]:
    """Different values of a key, in order, at most MOST_METADATA."""
    return _distinct(connection, METADATA.c.value, METADATA.c.account_id == account_id, METADATA.c.key == key)


def _distinct(connection: sa.Connection, column: sa.Column[str], *given: sa.ColumnElement[bool]) -> list[str]:
    """One index search for each different value: DISTINCT would read the rows of all devboxes."""
    found: list[str] = []
    while len(found) < MOST_METADATA:
        further = [column > found[-1]] if found else []
        after = connection.execute(sa.select(sa.func.min(column)).where(*given, *further)).scalar()
        if after is None:
            break
        found.append(after)
    return found


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
    """Record that the output of these devboxes is gone."""
    connection.execute(DEVBOXES.update().where(_C.id.in_(devbox_ids)), {"output_kept": False})


def _missing(devbox_id: str) -> errors.NotFound:
    return errors.NotFound(f"cannot find devbox {devbox_id}: there is none with this id")


def _cursor(connection: sa.Connection, account_id: str, devbox_id: str) -> int:
    query = sa.select(_C.seq).where(_C.id == devbox_id, _C.account_id == account_id)
    seq = connection.execute(query).scalar()
    if seq is None:
        raise errors.Invalid(f"cannot list devboxes: starting_after: there is no devbox {devbox_id} to start after")
    return int(seq)


def _conditions(account_id: str, which: Filter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [_C.account_id == account_id]
    if which.status is not None:
        conditions.append(_C.observed == which.status.value)
    if which.name is not None:
        conditions.append(_C.name == which.name)
    for key, wanted in which.metadata.items():
        values = [wanted] if isinstance(wanted, str) else list(wanted)
        matching = sa.select(METADATA.c.devbox_seq).where(
            METADATA.c.account_id == account_id, METADATA.c.key == key, METADATA.c.value.in_(values)
        )
        conditions.append(_C.seq.in_(matching))
    return conditions


def _insert_metadata(connection: sa.Connection, account_id: str, seq: int, metadata: Mapping[str, str]) -> None:
    if metadata:
        rows = [
            {"account_id": account_id, "key": key, "value": value, "devbox_seq": seq}
            for key, value in metadata.items()
        ]
        connection.execute(METADATA.insert(), rows)


def _stored(one: Transition) -> list[Any]:
    return [one.status.value, one.at_ms, one.reason.value]


def _tell(connection: sa.Connection, devbox_id: str, one: Transition, message: str) -> None:
    data = {"reason": one.reason.value, "message": message}
    events.append(connection, at_ms=one.at_ms, subject=devbox_id, kind=f"devbox.{one.status.value}", data=data)
