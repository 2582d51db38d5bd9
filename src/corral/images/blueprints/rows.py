"""Statements on the rows of blueprints. Each runs in the transaction of its caller.

Owns the change of a status or state together with its event. Must not wait, and must not build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.store import lists
from corral.images.blueprints.model import (
    ENDED,
    Blueprint,
    BlueprintPage,
    BlueprintState,
    BlueprintStatus,
    BlueprintWish,
)
from corral.images.blueprints.tables import BLUEPRINT_METADATA, BLUEPRINTS, blueprint_from_row, failure_to_json
from corral.images.builds.model import BuildFailure

MAX_PAGE: Final = 5000

_C = BLUEPRINTS.c
_CREATED: Final = _C.state == BlueprintState.CREATED.value
_BUILT: Final = _C.status == BlueprintStatus.BUILD_COMPLETE.value


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a blueprint is: its status and, as they come, its build, what came of it and when."""

    status: BlueprintStatus
    build_id: str | None = None
    image: str | None = None
    failure: BuildFailure | None = None
    finished_at_ms: int | None = None

    def to_row(self) -> dict[str, Any]:
        """The columns of it."""
        return {
            "status": self.status.value,
            "build_id": self.build_id,
            "image": self.image,
            "failure": failure_to_json(self.failure) if self.failure is not None else None,
            "finished_at_ms": self.finished_at_ms,
        }


def insert(
    connection: sa.Connection,
    blueprint_id: str,
    account_id: str,
    wish: BlueprintWish,
    standing: Standing,
    at_ms: int,
) -> Blueprint:
    """Write the wish for a blueprint, and the event of it."""
    values: dict[str, Any] = {
        "id": blueprint_id,
        "account_id": account_id,
        "name": wish.name,
        "metadata": dict(wish.metadata),
        "parameters": dict(wish.parameters),
        "dockerfile": wish.dockerfile,
        "build_args": dict(wish.build_args),
        "context_id": wish.context_id,
        "base_id": wish.base_id,
        "state": BlueprintState.CREATED.value,
        "created_at_ms": at_ms,
        "kept": True,
        **standing.to_row(),
    }
    seq = connection.execute(BLUEPRINTS.insert().returning(_C.seq), values).scalar_one()
    BLUEPRINT_METADATA.insert(connection, account_id, seq, wish.metadata)
    _tell(connection, blueprint_id, standing.status.value, at_ms)
    return blueprint_from_row(values)


def find(connection: sa.Connection, blueprint_id: str) -> Blueprint | None:
    """The blueprint, whoever owns it."""
    row = connection.execute(sa.select(BLUEPRINTS).where(_C.id == blueprint_id)).mappings().first()
    return blueprint_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, blueprint_id: str) -> Blueprint:
    """The account's blueprint. Raises errors.NotFound, also for one that belongs to another account."""
    blueprint = find(connection, blueprint_id)
    if blueprint is None or blueprint.account_id != account_id:
        raise errors.NotFound(f"cannot find blueprint {blueprint_id}: there is none with this id")
    return blueprint


def latest_built(connection: sa.Connection, account_id: str, name: str) -> Blueprint | None:
    """Of the account's blueprints of this name the newest one that is built."""
    query = sa.select(BLUEPRINTS).where(_C.account_id == account_id, _C.name == name, _CREATED, _BUILT)
    row = connection.execute(query.order_by(_C.seq.desc()).limit(1)).mappings().first()
    return blueprint_from_row(row) if row is not None else None


def move(connection: sa.Connection, blueprint: Blueprint, to: Standing, at_ms: int) -> bool:
    """Go on to another status, with the event of it; False when the row was not where `blueprint` has it."""
    swap = BLUEPRINTS.update().where(_C.id == blueprint.id, _C.status == blueprint.status.value)
    if connection.execute(swap, to.to_row()).rowcount != 1:
        return False
    _tell(connection, blueprint.id, to.status.value, at_ms)
    return True


def delete(connection: sa.Connection, blueprint: Blueprint, at_ms: int) -> None:
    """Record that nobody may use it any more."""
    swap = BLUEPRINTS.update().where(_C.id == blueprint.id, _CREATED)
    if connection.execute(swap, {"state": BlueprintState.DELETED.value}).rowcount == 1:
        _tell(connection, blueprint.id, "deleted", at_ms)


def given_up(connection: sa.Connection, blueprint_id: str) -> None:
    """Record that its image is not needed any more."""
    connection.execute(BLUEPRINTS.update().where(_C.id == blueprint_id), {"kept": False})


def is_base(connection: sa.Connection, blueprint_id: str) -> bool:
    """Whether another one, whose build has not ended, is built on it."""
    unfinished = _C.status.not_in([status.value for status in ENDED])
    query = sa.select(_C.id).where(_C.base_id == blueprint_id, unfinished).limit(1)
    return connection.execute(query).first() is not None


def concerned(connection: sa.Connection, subject: str) -> list[str]:
    """Blueprints that a build or an object is of."""
    query = sa.select(_C.id).where(_C.kept, (_C.build_id == subject) | (_C.context_id == subject))
    return list(connection.execute(query).scalars())


def to_do(connection: sa.Connection) -> list[str]:
    """Blueprints that are not built yet, and deleted ones whose images are still there."""
    unfinished = _C.status.not_in([status.value for status in ENDED])
    query = sa.select(_C.id).where(_C.kept, unfinished | (_C.state == BlueprintState.DELETED.value))
    return list(connection.execute(query).scalars())


def page(
    connection: sa.Connection,
    account_id: str,
    *,
    name: str | None,
    status: BlueprintStatus | None,
    limit: int,
    starting_after: str | None,
    count: bool,
) -> BlueprintPage:
    """One page, newest first, without deleted ones. Raises errors.Invalid for a bad limit and an unknown cursor."""
    conditions: list[sa.ColumnElement[bool]] = [_C.account_id == account_id, _CREATED]
    if name is not None:
        conditions.append(_C.name == name)
    if status is not None:
        conditions.append(_C.status == status.value)
    rows, more, total = lists.newest_first(
        connection,
        BLUEPRINTS,
        account_id,
        conditions,
        noun="blueprint",
        limit=limit,
        most=MAX_PAGE,
        starting_after=starting_after,
        count=count,
    )
    return BlueprintPage(tuple(map(blueprint_from_row, rows)), more, total)


def metadata_keys(connection: sa.Connection, account_id: str) -> list[str]:
    """Different keys, in order, at most a page of them."""
    return BLUEPRINT_METADATA.keys(connection, account_id)[0]


def metadata_values(connection: sa.Connection, account_id: str, key: str) -> list[str]:
    """Different values of a key, in order, at most a page of them."""
    return BLUEPRINT_METADATA.values(connection, account_id, key)[0]


def _tell(
    connection: sa.Connection, blueprint_id: str, what: str, at_ms: int, data: Mapping[str, Any] | None = None
) -> None:
    events.append(connection, at_ms=at_ms, subject=blueprint_id, kind=f"blueprint.{what}", data=data)
