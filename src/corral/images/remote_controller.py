"""Makes remote copies, removes them, and has devboxes copied that asked for it every so often.

Owns the choice of what a stream is the difference from, and how many copies are kept. A crash at any line leaves a row
that says what is still to be done; doing it again replaces what is half there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.devboxes.service import Devboxes
from corral.images import remote_rows as copies
from corral.images import snapshot_rows as rows
from corral.images.layers import LayerShelf
from corral.images.model import RemoteCopy, RemoteState, Snapshot, SnapshotStatus, SnapshotWish
from corral.images.remote_store import Manifest, RemoteStore
from corral.images.snapshots import SnapshotRules
from corral.runtime.contract import Copied, Runtime, RuntimeFailure

#: Seconds between two looks at what is due, and of a copy at its snapshot.
_LOOK_S: Final = 5.0
_WAIT_S: Final = 0.5

#: Differences in a row; then a whole stream is sent again.
MOST_LEVELS: Final = 10

_WORKERS: Final = 2
_IN_PROGRESS: Final = (RemoteState.IN_PROGRESS,)
_COMPLETE: Final = (RemoteState.COMPLETE,)


@dataclass(frozen=True, slots=True)
class Retention:
    """How many automatic copies of a devbox are kept, and for how many seconds each."""

    newest: int
    keep_s: float


class RemoteController:
    """`run` until cancelled."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        runtime: Runtime,
        remote: RemoteStore,
        shelf: LayerShelf,
        devboxes: Devboxes,
        rules: SnapshotRules,
        *,
        retention: Retention,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._remote = remote
        self._shelf = shelf
        self._devboxes = devboxes
        self._rules = rules
        self._retention = retention
        self._clock = clock
        self._ids = ids
        self._keys = Reconciler(self._step, clock=clock, workers=_WORKERS, part="images.remote")
        self._log = log.get("images.remote")
        feed.listen(self._heard)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile remote copies")
            looks = rounds(self.look, every_s=_LOOK_S, clock=self._clock, part="images.remote")
            group.create_task(looks, name="look at remote copies")

    async def look(self) -> None:
        """Begin the copies that are due, end those whose time is over, and look at all that is to be done."""
        now_ms = self._clock.now_ms()

        def work(connection: sa.Connection) -> list[str]:
            self._begin_due(connection, now_ms)
            for copy_id in copies.old(connection, now_ms - round(self._retention.keep_s * 1000)):
                copies.move(connection, copy_id, _COMPLETE, RemoteState.DELETED, now_ms)
            for devbox_id, snapshot_id in copies.automatic_devboxes(connection):
                if self._devboxes.has_ended(connection, devbox_id) and copies.of_snapshot_done(
                    connection, snapshot_id
                ):
                    rows.delete(connection, snapshot_id, now_ms)
            return copies.to_do(connection)

        for copy_id in await self._store.write(work):
            self._keys.poke(copy_id)

    async def receive(self, snapshot: Snapshot) -> Copied:
        """Make a snapshot of the remote copy that it names. Raises errors.CorralError, RuntimeFailure."""
        account_id, _, copy_id = (snapshot.remote or "").partition("/")
        chain = await self._chain(account_id, copy_id)
        newest = chain[-1]
        if newest.form is not self._runtime.snapshot_form:
            raise errors.WrongState(
                f"cannot use remote copy {copy_id}: it is of form {newest.form.value}, and disks of this host are "
                f"{self._runtime.snapshot_form.value}"
            )
        for digest in newest.layers:
            await self._shelf.fetch(digest)

        async def streams() -> AsyncIterator[AsyncIterator[bytes]]:
            for manifest in chain:
                yield self._remote.stream(manifest)

        await self._runtime.receive_snapshot(snapshot.id, streams())
        # Held until the row says so: to receive a disk may take longer than a layer stays that nothing is on.
        layers = [await self._shelf.fetch(digest) for digest in newest.layers]
        return Copied(newest.size, 0.0, tuple(layers))

    # -- inside

    def _begin_due(self, connection: sa.Connection, now_ms: int) -> None:
        for devbox, every_s in self._devboxes.copied_often(connection):
            last_ms = copies.newest_at_ms(connection, devbox.id) or devbox.created_at_ms
            if now_ms - last_ms < every_s * 1000:
                continue
            snapshot = self._rules.insert(connection, devbox, SnapshotWish(name="snapshot_every"))
            copy_id = self._ids.new("rcp")
            copies.insert(connection, copy_id, devbox.account_id, devbox.id, snapshot.id, now_ms, automatic=True)

    async def _chain(self, account_id: str, copy_id: str) -> list[Manifest]:
        """The copy and those that it is a difference from, the whole one first."""
        chain: list[Manifest] = []
        wanted: str | None = copy_id
        while wanted is not None:
            manifest = await self._remote.read(account_id, wanted)
            if manifest is None:
                raise errors.NotFound(f"cannot use remote copy {copy_id}: {wanted}, which it needs, is gone")
            if len(chain) > MOST_LEVELS:
                raise errors.WrongState(f"cannot use remote copy {copy_id}: it needs over {MOST_LEVELS} others")
            chain.insert(0, manifest)
            wanted = manifest.parent_id
        return chain

    def _heard(self, event: events.Event) -> None:
        if event.kind.startswith("remote."):
            self._keys.poke(event.subject)

    async def _step(self, copy_id: str) -> float | None:
        copy = await self._store.read(lambda connection: copies.find(connection, copy_id))
        if copy is None:
            return None
        if copy.state is RemoteState.IN_PROGRESS:
            return await self._make(copy)
        if copy.state is RemoteState.COMPLETE:
            if copy.automatic:
                await self._retire(copy)
            return None
        await self._remove(copy)
        return None

    async def _make(self, copy: RemoteCopy) -> float | None:
        snapshot = await self._store.read(lambda connection: rows.find(connection, copy.snapshot_id))
        if snapshot is not None and snapshot.status is SnapshotStatus.IN_PROGRESS:
            return _WAIT_S
        if snapshot is None or snapshot.status is not SnapshotStatus.COMPLETE:
            why = "it is gone" if snapshot is None else snapshot.message or f"it is {snapshot.status.value}"
            await self._fail(copy, f"cannot copy snapshot {copy.snapshot_id}: {why}")
            return None
        try:
            stored = await self._send(copy, snapshot)
        except RuntimeFailure as problem:
            await self._fail(copy, problem.message)
            return None
        at_ms = self._clock.now_ms()
        await self._store.write(
            lambda connection: copies.move(
                connection, copy.id, _IN_PROGRESS, RemoteState.COMPLETE, at_ms, stored=stored
            )
        )
        return None

    async def _send(self, copy: RemoteCopy, snapshot: Snapshot) -> int:
        differs = self._runtime.snapshot_form.has_differences

        def begin(connection: sa.Connection) -> RemoteCopy | None:
            parent = copies.parent_for(connection, copy, MOST_LEVELS) if differs else None
            copies.begin(connection, copy.id, parent)
            return parent

        parent = await self._store.write(begin)
        for layer in snapshot.layers:
            await self._shelf.keep(layer)
        manifest = Manifest(
            id=copy.id,
            account_id=copy.account_id,
            devbox_id=copy.devbox_id,
            snapshot_id=snapshot.id,
            name=snapshot.wish.name,
            form=self._runtime.snapshot_form,
            parent_id=None if parent is None else parent.id,
            level=0 if parent is None else parent.level + 1,
            layers=tuple(layer.digest for layer in snapshot.layers),
            env=snapshot.env,
            request=await self._request(copy.devbox_id),
            size=snapshot.size,
            created_at_ms=copy.created_at_ms,
        )
        stream = self._runtime.send_snapshot(snapshot.id, None if parent is None else parent.snapshot_id)
        async with contextlib.AsyncExitStack() as undo:
            if isinstance(stream, AsyncGenerator):
                undo.push_async_callback(stream.aclose)
            return (await self._remote.write(manifest, stream)).stored

    async def _request(self, devbox_id: str) -> dict[str, object]:
        return await self._store.read(lambda connection: self._devboxes.request_of(connection, devbox_id))

    async def _fail(self, copy: RemoteCopy, message: str) -> None:
        at_ms = self._clock.now_ms()
        self._log.warning("cannot make remote copy", copy=copy.id, devbox=copy.devbox_id, error=message)
        await self._store.write(
            lambda connection: copies.move(
                connection, copy.id, _IN_PROGRESS, RemoteState.ERROR, at_ms, message=message
            )
        )

    async def _retire(self, copy: RemoteCopy) -> None:
        """Keep no more automatic copies than are wanted, and only the snapshot that the next one begins at."""
        at_ms = self._clock.now_ms()

        def work(connection: sa.Connection) -> None:
            spent, snapshots = copies.spent(connection, copy.devbox_id, self._retention.newest)
            for copy_id in spent:
                copies.move(connection, copy_id, _COMPLETE, RemoteState.DELETED, at_ms)
            for snapshot_id in snapshots:
                rows.delete(connection, snapshot_id, at_ms)

        await self._store.write(work)

    async def _remove(self, copy: RemoteCopy) -> None:
        """Remove a copy from the object store, once no other one needs it."""
        if await self._store.read(lambda connection: copies.is_needed(connection, copy.id)):
            return
        await self._remote.remove(copy.account_id, copy.id)
        await self._store.write(lambda connection: copies.forgotten(connection, copy.id))
        if copy.parent_id is not None:
            self._keys.poke(copy.parent_id)
