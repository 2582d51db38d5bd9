"""What can be done with snapshots, and what devboxes ask of them in their own transactions.

Owns the wishes: a call writes a row and its event and answers; `snapshot_controller` makes the world follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.devboxes.model import Devbox, Inheritance, KeepMemory, Parent
from corral.devboxes.service import Devboxes
from corral.images import snapshot_rows as rows
from corral.images.model import Snapshot, SnapshotPage, SnapshotStatus, SnapshotWish
from corral.images.sources import Images, env_of

#: Waiters look again this often even if nothing wakes them.
_LOOK_AGAIN_S: Final = 30.0

Texts = list[str]


class SnapshotRules:
    """What devboxes ask in their own transactions."""

    def __init__(self, images: Images, *, clock: Clock, ids: Ids, remote: bool = False) -> None:
        self._images = images
        self._remote = remote
        self._clock = clock
        self._ids = ids

    def require(self, connection: sa.Connection, account_id: str, snapshot_id: str) -> Parent:
        """What it is of. Raises errors.NotFound or errors.WrongState unless devboxes can begin as it."""
        snapshot = rows.require_complete(connection, account_id, snapshot_id)
        return Parent(snapshot.devbox_id, snapshot.blueprint_id)

    def require_remote(self) -> None:
        """Raise errors.NotOffered when this server has no place for remote copies."""
        if not self._remote:
            raise errors.NotOffered(
                "cannot create devbox: snapshot_every: this server does not offer it without CORRAL_OBJECTS"
            )

    def begin(self, connection: sa.Connection, devbox: Devbox, memory: KeepMemory) -> str:
        """Have the devbox copied for a fork."""
        wanted = None if memory is KeepMemory.NEVER else Inheritance(memory, devbox.launch)
        return self.insert(connection, devbox, SnapshotWish(), passing=True, memory=wanted).id

    def insert(
        self,
        connection: sa.Connection,
        devbox: Devbox,
        wish: SnapshotWish,
        *,
        passing: bool = False,
        memory: Inheritance | None = None,
    ) -> Snapshot:
        """Write the wish for a snapshot of a devbox that runs."""
        env = env_of(connection, self._images, devbox)
        snapshot_id, at_ms = self._ids.new("snp"), self._clock.now_ms()
        return rows.insert(
            connection,
            snapshot_id,
            devbox.account_id,
            devbox.id,
            wish,
            env,
            at_ms,
            passing=passing,
            blueprint_id=devbox.request.blueprint_id,
            memory=memory,
        )

    def in_progress(self, connection: sa.Connection, devbox_id: str) -> bool:
        """Whether a snapshot of the devbox is being made."""
        return rows.in_progress(connection, devbox_id)


class Snapshots:
    """See the methods. All raise errors.NotFound for what is not the account's."""

    def __init__(
        self, store: Store, feed: events.Feed, devboxes: Devboxes, rules: SnapshotRules, *, clock: Clock
    ) -> None:
        self._store = store
        self._feed = feed
        self._devboxes = devboxes
        self._rules = rules
        self._clock = clock

    async def take(
        self,
        account_id: str,
        devbox_id: str,
        wish: SnapshotWish,
        *,
        also: Callable[[sa.Connection, Snapshot], None] | None = None,
    ) -> Snapshot:
        """Record the wish for a snapshot of a devbox and return it, in progress. Raises errors.WrongState.

        `also` is called in the same transaction.
        """
        devbox = await self._devboxes.get(account_id, devbox_id)

        def insert(connection: sa.Connection) -> Snapshot:
            self._devboxes.require_disk(connection, account_id, devbox_id, "snapshot")
            snapshot = self._rules.insert(connection, devbox, wish)
            if also is not None:
                also(connection, snapshot)
            return snapshot

        return await self._store.write(insert)

    async def wait(self, account_id: str, snapshot_id: str, timeout_s: float) -> Snapshot:
        """Return the snapshot once it is in progress no more. Raises errors.TimedOut after `timeout_s` seconds."""
        deadline = self._clock.monotonic() + timeout_s
        with self._feed.watch(snapshot_id) as wake:
            while True:
                seen = wake.fires
                snapshot = await self.get(account_id, snapshot_id)
                if snapshot.status is not SnapshotStatus.IN_PROGRESS:
                    return snapshot
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise errors.TimedOut(f"cannot wait longer for snapshot {snapshot_id}: it is in progress")
                await wake.wait(min(left, _LOOK_AGAIN_S), since=seen)

    async def get(self, account_id: str, snapshot_id: str) -> Snapshot:
        """The snapshot as it is now."""
        return await self._store.read(lambda connection: rows.get(connection, account_id, snapshot_id))

    async def list(
        self,
        account_id: str,
        *,
        devbox_id: str | None = None,
        blueprint_id: str | None = None,
        metadata: Mapping[str, str | Sequence[str]] | None = None,
        limit: int = 20,
        starting_after: str | None = None,
        count: bool = True,
    ) -> SnapshotPage:
        """The account's snapshots that can be used, or soon can, newest first; see `Devboxes.list`."""
        which = rows.Filter(devbox_id, blueprint_id, metadata or {})
        return await self._store.read(
            lambda connection: rows.page(
                connection, account_id, which, limit=limit, starting_after=starting_after, count=count
            )
        )

    async def update(self, account_id: str, snapshot_id: str, given: Mapping[str, Any]) -> Snapshot:
        """Replace those of name, commit_message and metadata that are in `given`."""

        def change(connection: sa.Connection) -> Snapshot:
            snapshot = rows.get(connection, account_id, snapshot_id)
            return rows.update(connection, snapshot, given, self._clock.now_ms())

        return await self._store.write(change)

    async def delete(self, account_id: str, snapshot_id: str) -> None:
        """Nobody begins as it any more; devboxes that did keep their disks. Idempotent.

        Raises errors.Conflict unless it is complete, or deleted already.
        """

        def change(connection: sa.Connection) -> None:
            snapshot = rows.get(connection, account_id, snapshot_id)
            done = snapshot.status is SnapshotStatus.DELETED
            if not done and not rows.delete(connection, snapshot_id, self._clock.now_ms()):
                raise errors.Conflict(
                    f"cannot delete snapshot {snapshot_id}: it is {snapshot.status.value}, not complete"
                )

        await self._store.write(change)

    async def metadata_keys(self, account_id: str) -> Texts:
        """Metadata keys of the account's snapshots, in order."""
        return await self._store.read(lambda connection: rows.metadata_keys(connection, account_id))

    async def metadata_values(self, account_id: str, key: str) -> Texts:
        """As `metadata_keys`, the values of one key."""
        return await self._store.read(lambda connection: rows.metadata_values(connection, account_id, key))
