"""What can be done with remote copies of snapshots: push one, find them, receive one again, here or on another node.

Owns the wishes. `remote_controller` acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.devboxes.model import Devbox
from corral.devboxes.service import Devboxes
from corral.images import remote_rows as copies
from corral.images import snapshot_rows as rows
from corral.images.model import RemoteCopy, RemoteState, Snapshot, SnapshotWish
from corral.images.remote_store import Manifest, RemoteStore

#: Copies that a list has at most.
MOST: int = 1000


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote copy as a list has it: one that is whole by its manifest, any other by its row."""

    id: str
    devbox_id: str
    snapshot_id: str
    state: RemoteState
    message: str
    parent_id: str | None
    name: str | None
    size: int | None
    stored: int | None
    created_at_ms: int


class RemoteCopies:
    """See the methods. All raise errors.NotOffered when the server has no place for remote copies."""

    def __init__(
        self,
        store: Store,
        remote: RemoteStore | None,
        devboxes: Devboxes,
        *,
        recovers: Sequence[str],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._remote = remote
        self._devboxes = devboxes
        self._recovers = tuple(recovers)  #: accounts of lost servers, whose copies this server's accounts may use
        self._clock = clock
        self._ids = ids

    def require(self) -> RemoteStore:
        """Where they are. Raises errors.NotOffered."""
        if self._remote is None:
            raise errors.NotOffered(
                "cannot keep remote copies: this server does not offer it without the setting CORRAL_OBJECTS"
            )
        return self._remote

    async def push(self, account_id: str, snapshot_id: str) -> Remote:
        """Have a snapshot copied to the object store; the copy that it has, or is about to have, if there is one.

        Raises errors.NotFound, errors.WrongState when the snapshot is not complete.
        """
        self.require()
        copy_id, at_ms = self._ids.new("rcp"), self._clock.now_ms()

        def insert(connection: sa.Connection) -> RemoteCopy:
            snapshot = rows.require_complete(connection, account_id, snapshot_id)
            there = copies.of_snapshot(connection, snapshot_id)
            return there or copies.insert(
                connection, copy_id, account_id, snapshot.devbox_id, snapshot_id, at_ms, automatic=False
            )

        return _of_row(await self._store.write(insert))

    async def get(self, account_id: str, copy_id: str) -> Remote:
        """A copy as it is now, of this server or of another one. Raises errors.NotFound."""
        found = await self._store.read(lambda connection: copies.find(connection, copy_id))
        if found is not None and found.account_id == account_id:
            return _of_row(found)
        return _of_manifest(await self._manifest(account_id, copy_id))

    async def list(self, account_id: str, devbox_id: str | None = None) -> tuple[Remote, ...]:
        """The account's copies in the object store, newest first, and those that are on their way or failed."""
        remote = self.require()
        manifests = await remote.all((account_id, *self._recovers), MOST)
        waiting = await self._store.read(lambda connection: copies.unfinished(connection, account_id))
        found = [*map(_of_row, waiting), *map(_of_manifest, manifests)]
        chosen = [one for one in found if devbox_id in {None, one.devbox_id}]
        return tuple(sorted(chosen, key=lambda one: (one.created_at_ms, one.id), reverse=True)[:MOST])

    async def delete(self, account_id: str, copy_id: str) -> None:
        """Nobody uses the copy any more; what others are the difference from is removed after those.

        Raises errors.NotFound, errors.Conflict for another server's copy that others need.
        """
        remote, at_ms = self.require(), self._clock.now_ms()

        def change(connection: sa.Connection) -> bool:
            found = copies.find(connection, copy_id)
            if found is None or found.account_id != account_id:
                return False
            states = (RemoteState.IN_PROGRESS, RemoteState.COMPLETE, RemoteState.ERROR)
            copies.move(connection, copy_id, states, RemoteState.DELETED, at_ms)
            return True

        if await self._store.write(change):
            return
        manifest = await self._manifest(account_id, copy_id)
        others = await remote.all((manifest.account_id,), MOST)
        if any(other.parent_id == copy_id for other in others):
            raise errors.Conflict(f"cannot delete remote copy {copy_id}: a later one is a difference from it")
        await remote.remove(manifest.account_id, copy_id)

    async def pull(self, account_id: str, copy_id: str) -> Snapshot:
        """Have a snapshot made of a copy, in progress when this returns; the one that there is already, if so.

        Raises errors.NotFound, errors.WrongState when the copy cannot be believed.
        """
        manifest = await self._manifest(account_id, copy_id)
        snapshot_id, at_ms = self._ids.new("snp"), self._clock.now_ms()
        place = f"{manifest.account_id}/{manifest.id}"

        def insert(connection: sa.Connection) -> Snapshot:
            there = rows.of_remote(connection, account_id, place)
            return there or rows.insert(
                connection,
                snapshot_id,
                account_id,
                manifest.devbox_id,
                SnapshotWish(name=manifest.name),
                manifest.env,
                at_ms,
                remote=place,
                request=manifest.request,
            )

        return await self._store.write(insert)

    async def restore(self, account_id: str, snapshot_id: str) -> Devbox:
        """A new devbox that begins as a snapshot which was pulled, with all that its devbox was asked for with.

        Raises errors.NotFound, errors.WrongState when the snapshot is not complete, or of a devbox of this server.
        """
        snapshot = await self._store.read(
            lambda connection: rows.require_complete(connection, account_id, snapshot_id)
        )
        if snapshot.request is None:
            raise errors.WrongState(f"cannot restore snapshot {snapshot_id}: it was not pulled from the object store")
        return await self._devboxes.create_again(account_id, snapshot.request, snapshot_id)

    async def _manifest(self, account_id: str, copy_id: str) -> Manifest:
        remote = self.require()
        for owner in (account_id, *self._recovers):
            manifest = await remote.read(owner, copy_id)
            if manifest is not None:
                return manifest
        raise errors.NotFound(f"cannot find remote copy {copy_id}: there is none in the object store")


def _of_row(copy: RemoteCopy) -> Remote:
    done = copy.state is RemoteState.COMPLETE
    return Remote(
        id=copy.id,
        devbox_id=copy.devbox_id,
        snapshot_id=copy.snapshot_id,
        state=copy.state,
        message=copy.message,
        parent_id=copy.parent_id,
        name=None,
        size=None,
        stored=copy.stored if done else None,
        created_at_ms=copy.created_at_ms,
    )


def _of_manifest(manifest: Manifest) -> Remote:
    return Remote(
        id=manifest.id,
        devbox_id=manifest.devbox_id,
        snapshot_id=manifest.snapshot_id,
        state=RemoteState.COMPLETE,
        message="",
        parent_id=manifest.parent_id,
        name=manifest.name,
        size=manifest.size,
        stored=manifest.stored,
        created_at_ms=manifest.created_at_ms,
    )
