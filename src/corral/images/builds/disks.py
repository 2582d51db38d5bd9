"""Disks of builds that have ended, kept for the next build of their account: buildah finds its steps on them again.

Owns which one that is, and when one is too large to be kept. A disk is kept as a snapshot of the account that no key
opens; concurrent builds each begin as a copy, and the last one that ends is kept.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes.service import Devboxes
from corral.images import snapshot_rows
from corral.images.builds import rows
from corral.images.builds.tables import Job
from corral.images.builds.workshop import Workshop, account_of
from corral.images.model import Snapshot, SnapshotStatus, SnapshotWish
from corral.images.snapshots import Snapshots

#: Snapshots of one account that are looked at: the one that is kept, and those that a devbox still begins as.
_MOST: Final = 100

#: Builds whose bases are taken for what a disk has layers on.
_BUILDS: Final = 50


class Disks:
    """One for each store. `most` is the bytes of a disk that is kept; a larger one starts anew."""

    def __init__(
        self, store: Store, devboxes: Devboxes, snapshots: Snapshots, workshop: Workshop, *, clock: Clock, most: int
    ) -> None:
        self._store = store
        self._devboxes = devboxes
        self._snapshots = snapshots
        self._workshop = workshop
        self._clock = clock
        self._most = most

    async def latest(self, account_id: str) -> str | None:
        """What the next build of the account begins as."""
        return next((one.id for one in await self._all(account_id) if one.status is SnapshotStatus.COMPLETE), None)

    async def bases(self, account_id: str) -> list[str]:
        """Images that layers on the account's disk are of, the latest first."""
        return await self._store.read(lambda connection: rows.bases_of_disks(connection, account_id, _BUILDS))

    async def keep(self, job: Job) -> bool:
        """Begin to keep the disk of a build; False, and none is kept any more, when it has become too large."""
        used = await self._size(job)
        if used is None or used > self._most:
            await self._drop(job.build.account_id)
            return False

        def note(connection: sa.Connection, snapshot: Snapshot) -> None:
            rows.keep(connection, job.build.id, snapshot.id, used)

        account_id = account_of(job.build.account_id)
        try:
            await self._snapshots.take(account_id, job.devbox_id or "", SnapshotWish(name=job.build.id), also=note)
        except errors.WrongState:  # its devbox has just ended
            return False
        return True

    async def kept(self, job: Job) -> bool:
        """Whether the disk is kept by now, or will not be; earlier ones go then."""
        account_id = account_of(job.build.account_id)
        snapshot = await self._snapshots.get(account_id, job.kept_as or "")
        if snapshot.status is SnapshotStatus.IN_PROGRESS:
            return False
        if snapshot.status is SnapshotStatus.COMPLETE:
            await self._drop(job.build.account_id, but=snapshot.id)
        return True

    async def _size(self, job: Job) -> int | None:
        """Bytes of the disk with all that it began as: a copy counts what it writes itself."""
        usage = await self._workshop.usage(job)
        if usage is None:
            return None
        origin = job.begins_as
        if origin is None:
            return usage.disk
        before = await self._store.read(lambda connection: rows.bytes_of_disk(connection, origin))
        return usage.disk + before

    async def _drop(self, account_id: str, *, but: str = "") -> None:
        """Delete disks that were kept, but for one, and those that a devbox is about to begin as."""
        old = [one.id for one in await self._all(account_id) if one.id != but]

        def delete(connection: sa.Connection) -> None:
            for snapshot_id in old:
                if not self._devboxes.begins_as(connection, snapshot_id):
                    snapshot_rows.delete(connection, snapshot_id, self._clock.now_ms())

        await self._store.write(delete)

    async def _all(self, account_id: str) -> tuple[Snapshot, ...]:
        return (await self._snapshots.list(account_of(account_id), limit=_MOST, count=False)).items
