"""Statements on the rows of builds. Each runs in the transaction of its caller.

Owns the change of a status together with its event. Must not wait, and must not talk to a runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.images.builds.model import ENDED, Build, BuildFailure, BuildPlan, BuildStatus, ImageConfig
from corral.images.builds.tables import (
    BUILD_LOGS,
    BUILD_USES,
    BUILDS,
    Job,
    build_from_row,
    config_to_json,
    failure_to_json,
    job_from_row,
    plan_to_json,
)

_C = BUILDS.c
_U = BUILD_USES.c

#: On their way: their devbox is there, or is being made.
UNDER_WAY: Final = frozenset({BuildStatus.PROVISIONING, BuildStatus.BUILDING})


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a Dockerfile and the image of this host that it means, with that one's digest."""

    written: str
    image: str
    digest: str


def insert(
    connection: sa.Connection, build_id: str, plan: BuildPlan, key: str, bases: Sequence[Named], at_ms: int
) -> Build:
    """Write the wish for a build, and the event of it."""
    values: dict[str, Any] = {
        "id": build_id,
        "account_id": plan.account_id,
        "key": key,
        "open": True,
        "status": BuildStatus.QUEUED.value,
        "plan": plan_to_json(plan),
        "bases": _told(bases),
        "known": [],
        "attempt": 1,
        "devbox_id": None,
        "begins_as": None,
        "kept_as": None,
        "disk_bytes": None,
        "image": None,
        "config": None,
        "failure": None,
        "created_at_ms": at_ms,
        "started_at_ms": None,
        "ended_at_ms": None,
        "cleared": False,
    }
    connection.execute(BUILDS.insert(), values)
    _tell(connection, build_id, BuildStatus.QUEUED, at_ms)
    return build_from_row(values)


def rebase(connection: sa.Connection, build_id: str, bases: Sequence[Named], key: str) -> bool:
    """Have a build that waits be upon these; False when it does not wait any more.

    It keeps its key where another one has the new one already: what comes out of both is the same.
    """
    waits = sa.select(_C.account_id).where(_C.id == build_id, _C.status == BuildStatus.QUEUED.value)
    account_id = connection.execute(waits).scalar()
    if account_id is None:
        return False
    changes: dict[str, Any] = {"bases": _told(bases)}
    if find_open(connection, account_id, key) is None:
        changes["key"] = key
    connection.execute(BUILDS.update().where(_C.id == build_id), changes)
    return True


def _told(bases: Sequence[Named]) -> list[list[str]]:
    return [[base.written, base.image, base.digest] for base in bases]


def find_open(connection: sa.Connection, account_id: str, key: str) -> Build | None:
    """The build that a request of this key is, unless it must be built anew."""
    query = sa.select(BUILDS).where(_C.account_id == account_id, _C.key == key, _C.open)
    row = connection.execute(query).mappings().first()
    return build_from_row(row) if row is not None else None


def find(connection: sa.Connection, build_id: str) -> Job | None:
    """The build, whoever owns it."""
    row = connection.execute(sa.select(BUILDS).where(_C.id == build_id)).mappings().first()
    return job_from_row(row) if row is not None else None


def get(connection: sa.Connection, account_id: str, build_id: str) -> Job:
    """The account's build. Raises errors.NotFound, also for one that belongs to another account."""
    job = find(connection, build_id)
    if job is None or job.build.account_id != account_id:
        raise errors.NotFound(f"cannot find build {build_id}: there is none with this id")
    return job


def use(connection: sa.Connection, build_id: str, wanted_by: str) -> None:
    """Record who needs the image. Idempotent."""
    known = connection.execute(sa.select(_U.build_id).where(_U.build_id == build_id, _U.wanted_by == wanted_by))
    if known.first() is None:
        connection.execute(BUILD_USES.insert(), {"build_id": build_id, "wanted_by": wanted_by})


def release(connection: sa.Connection, build_id: str, wanted_by: str, at_ms: int) -> None:
    """Record that it is not needed by `wanted_by` any more; without any use it is open to no request."""
    connection.execute(BUILD_USES.delete().where(_U.build_id == build_id, _U.wanted_by == wanted_by))
    if is_wanted(connection, build_id):
        return
    changed = connection.execute(BUILDS.update().where(_C.id == build_id, _C.open), {"open": False, "cleared": False})
    if changed.rowcount:
        events.append(connection, at_ms=at_ms, subject=build_id, kind="build.released")


def close(connection: sa.Connection, build_id: str) -> None:
    """Its image is gone from the host: the next request of its key is another build."""
    connection.execute(BUILDS.update().where(_C.id == build_id), {"open": False, "image": None})


def is_wanted(connection: sa.Connection, build_id: str) -> bool:
    """Whether anything needs its image."""
    return connection.execute(sa.select(_U.build_id).where(_U.build_id == build_id).limit(1)).first() is not None


def begin(connection: sa.Connection, build_id: str, devbox_id: str, begins_as: str | None, at_ms: int) -> bool:
    """Record the devbox that it is built in; False when it was not queued any more."""
    changes = {"devbox_id": devbox_id, "begins_as": begins_as, "started_at_ms": at_ms}
    return _move(connection, build_id, {BuildStatus.QUEUED}, BuildStatus.PROVISIONING, changes, at_ms)


def building(connection: sa.Connection, build_id: str, known: Collection[str], at_ms: int) -> bool:
    """Record that its steps are about to run, and the layers that its devbox was told of."""
    changes = {"known": sorted(known)}
    return _move(connection, build_id, UNDER_WAY, BuildStatus.BUILDING, changes, at_ms)


def image_of_disk(connection: sa.Connection, snapshot_id: str) -> str | None:
    """The image that was built on the disk that this snapshot is of."""
    return connection.execute(sa.select(_C.image).where(_C.kept_as == snapshot_id)).scalar()


def again(connection: sa.Connection, job: Job, at_ms: int) -> bool:
    """Queue it once more: its devbox was lost for no fault of its own."""
    changes = {
        "devbox_id": None,
        "begins_as": None,
        "kept_as": None,
        "config": None,
        "failure": None,
        "attempt": job.attempt + 1,
    }
    return _move(connection, job.build.id, UNDER_WAY, BuildStatus.QUEUED, changes, at_ms)


def keep(connection: sa.Connection, build_id: str, snapshot_id: str, disk_bytes: int) -> None:
    """Record the snapshot that is made of its devbox's disk, and the size of that."""
    connection.execute(BUILDS.update().where(_C.id == build_id), {"kept_as": snapshot_id, "disk_bytes": disk_bytes})


def bases_of_disks(connection: sa.Connection, account_id: str, most: int) -> list[str]:
    """Images that the last builds of the account whose disks were kept had as bases, the latest first."""
    query = sa.select(_C.bases).where(_C.account_id == account_id, _C.kept_as.is_not(None))
    found = connection.execute(query.order_by(_C.seq.desc()).limit(most)).scalars()
    return list(dict.fromkeys(image for bases in found for _, image, _ in bases))


def bytes_of_disk(connection: sa.Connection, snapshot_id: str) -> int:
    """Size of the disk that this snapshot is of; 0 when no build knows."""
    return int(connection.execute(sa.select(_C.disk_bytes).where(_C.kept_as == snapshot_id)).scalar() or 0)


def settle(connection: sa.Connection, build_id: str, outcome: ImageConfig | BuildFailure) -> None:
    """Record how it will end, once its disk is kept: what says so in its devbox may go now."""
    changes = (
        {"failure": failure_to_json(outcome)}
        if isinstance(outcome, BuildFailure)
        else {"config": config_to_json(outcome)}
    )
    connection.execute(BUILDS.update().where(_C.id == build_id, _C.ended_at_ms.is_(None)), changes)


def complete(connection: sa.Connection, build_id: str, image: str, packed_log: bytes, at_ms: int) -> bool:
    """Record that its image is there; False when it had ended before."""
    changes = {"image": image, "ended_at_ms": at_ms}
    done = _move(connection, build_id, UNDER_WAY, BuildStatus.COMPLETE, changes, at_ms)
    if done:
        _write_log(connection, build_id, packed_log)
    return done


def fail(connection: sa.Connection, build_id: str, failure: BuildFailure, packed_log: bytes, at_ms: int) -> bool:
    """Record why there is no image; False when it had ended before. The next request of its key is another build."""
    changes = {"failure": failure_to_json(failure), "config": None, "ended_at_ms": at_ms, "open": False}
    done = _move(connection, build_id, set(BuildStatus) - ENDED, BuildStatus.FAILED, changes, at_ms)
    if done:
        _write_log(connection, build_id, packed_log)
    return done


def cleared(connection: sa.Connection, build_id: str, *, wanted: bool) -> bool:
    """Record that nothing on the host belongs to it but its image, which only a wanted one has.

    False, and nothing is recorded, when it is wanted otherwise than the caller saw when it cleared up.
    """
    if is_wanted(connection, build_id) != wanted:
        return False
    gone = {} if wanted else {"image": None}
    connection.execute(BUILDS.update().where(_C.id == build_id), {"cleared": True, **gone})
    return True


def to_do(connection: sa.Connection) -> list[str]:
    """Builds that are to be carried out, ended or cleared, the oldest first."""
    return list(connection.execute(sa.select(_C.id).where(~_C.cleared).order_by(_C.seq)).scalars())


def under_way(connection: sa.Connection) -> int:
    """How many builds have a devbox, or are about to."""
    statuses = [status.value for status in UNDER_WAY]
    query = sa.select(sa.func.count()).select_from(BUILDS).where(~_C.cleared, _C.status.in_(statuses))
    return int(connection.execute(query).scalar_one())


def queued(connection: sa.Connection) -> str | None:
    """The build that has waited for the longest time."""
    query = sa.select(_C.id).where(~_C.cleared, _C.status == BuildStatus.QUEUED.value).order_by(_C.seq).limit(1)
    return connection.execute(query).scalar()


def of_devbox(connection: sa.Connection, devbox_id: str) -> str | None:
    """The build that this devbox is for, of those that are not cleared."""
    return connection.execute(sa.select(_C.id).where(~_C.cleared, _C.devbox_id == devbox_id)).scalar()


def packed_log(connection: sa.Connection, build_id: str) -> bytes | None:
    """The log of a build that has ended."""
    query = sa.select(BUILD_LOGS.c.packed).where(BUILD_LOGS.c.build_id == build_id)
    return connection.execute(query).scalar()


def _write_log(connection: sa.Connection, build_id: str, packed: bytes) -> None:
    connection.execute(BUILD_LOGS.insert(), {"build_id": build_id, "packed": packed})


def _move(
    connection: sa.Connection,
    build_id: str,
    expected: set[BuildStatus] | frozenset[BuildStatus],
    status: BuildStatus,
    changes: Mapping[str, Any],
    at_ms: int,
) -> bool:
    known = [one.value for one in expected]
    swap = BUILDS.update().where(_C.id == build_id, _C.status.in_(known))
    if connection.execute(swap, {**changes, "status": status.value}).rowcount != 1:
        return False
    _tell(connection, build_id, status, at_ms)
    return True


def _tell(connection: sa.Connection, build_id: str, status: BuildStatus, at_ms: int) -> None:
    events.append(connection, at_ms=at_ms, subject=build_id, kind=f"build.{status.value}")
