"""What can be done with snapshots, and what makes the world follow: copies that are asked for, and those to remove.

Owns the wishes (`Snapshots`) and the loop behind them (`SnapshotController`). A call writes a row and its event and
answers; the controller acts on the event, and on what it finds after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.reconcile import Reconciler
from corral.core.store.store import Store
from corral.devboxes.model import Devbox, Inheritance, KeepMemory, Parent, copy_of
from corral.devboxes.service import Devboxes
from corral.images import snapshot_rows as rows
from corral.images.model import Snapshot, SnapshotPage, SnapshotStatus, SnapshotWish, Source
from corral.runtime.contract import (
    Copied,
    Layer,
    MemoryNotKept,
    NoSuchSnapshot,
    Runtime,
    RuntimeFailure,
    SnapshotExists,
)

#: Waiters look again this often even if nothing wakes them.
_LOOK_AGAIN_S: Final = 30.0
#: Seconds between two comparisons of all rows with all snapshots on the host.
_RESYNC_S: Final = 60.0
#: Seconds between two looks whether a fork is complete.
_PASSING_S: Final = 0.5

Texts = list[str]

#: Makes a snapshot of the remote copy that it names.
Receive = Callable[[Snapshot], Awaitable[Copied]]


class Image(Protocol):
    """What a box needs of an image."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the lowest to the highest."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables of every box of it."""


class Images(Protocol):
    """Where images come from."""

    def resolve(self, name: str | None = None) -> Image:
        """The image of this name, the default one for None. Raises errors.CorralError when there is none."""

    def names(self) -> list[str]:
        """Names that `resolve` knows now."""


class Sources:
    """What devboxes begin as: an image, or a snapshot and the image below it."""

    def __init__(self, store: Store, images: Images) -> None:
        self._store = store
        self._images = images

    async def find(self, devbox: Devbox) -> Source | None:
        """What a box of this devbox begins as; None while that is being copied.

        Raises errors.CorralError when it is not there, and will not be.
        """
        snapshot_id = devbox.request.snapshot_id
        lent = _lent(self._images, devbox)
        if devbox.kept is not None:
            env = await self._store.read(lambda connection: _env(connection, self._images, devbox))
            return Source(devbox.kept.layers, env, copy_of(devbox.id), lent)
        if snapshot_id is None:
            image = self._images.resolve(devbox.request.image)
            return Source(image.layers, image.env, None, lent)
        snapshot = await self._store.read(lambda connection: rows.find(connection, snapshot_id))
        if snapshot is None or snapshot.status is SnapshotStatus.ERROR:
            why = f"it was not made: {snapshot.message}" if snapshot is not None else "there is none"
            raise errors.NotFound(f"cannot use snapshot {snapshot_id}: {why}")
        if snapshot.status is SnapshotStatus.IN_PROGRESS:
            return None
        return Source(snapshot.layers, snapshot.env, snapshot.id, lent, snapshot.memory)


def _lent(images: Images, devbox: Devbox) -> tuple[Layer, ...]:
    """Layers of the images that are lent to it, as far as these are on this host: it can do without."""
    found: dict[str, Layer] = {}
    for name in devbox.request.lent:
        with contextlib.suppress(errors.NotFound, errors.Unavailable):
            found |= {layer.digest: layer for layer in images.resolve(name).layers}
    return tuple(found.values())


def _env(connection: sa.Connection, images: Images, devbox: Devbox) -> Mapping[str, str]:
    """Variables of the image that the devbox's layers are of, whether it began as a snapshot or not."""
    origin = devbox.request.snapshot_id
    snapshot = rows.find(connection, origin) if origin is not None else None
    if snapshot is not None:
        return snapshot.env
    try:
        return images.resolve(devbox.request.image).env
    except errors.NotFound:
        # The name was removed since: the disk, whose layers are there, is worth more than a few variables.
        log.get("images").warning("an image's variables are gone with its name", devbox=devbox.id)
        return {}


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
        env = _env(connection, self._images, devbox)
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


class SnapshotController:
    """Makes and removes the copies. `run` until cancelled."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        runtime: Runtime,
        devboxes: Devboxes,
        *,
        clock: Clock,
        at_once: int,
        receive: Receive | None = None,
    ) -> None:
        self._store = store
        self._receive = receive
        self._runtime = runtime
        self._devboxes = devboxes
        self._clock = clock
        self._keys = Reconciler(self._step, clock=clock, workers=at_once, part="images.snapshots")
        self._log = log.get("images.snapshots")
        feed.listen(self._heard)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile snapshots")
            group.create_task(self._resync_always(), name="compare snapshots")

    async def layers(self) -> set[Layer]:
        """Layers that snapshots and suspended devboxes are over."""

        def look(connection: sa.Connection) -> set[Layer]:
            return rows.layers(connection) | self._devboxes.kept_layers(connection)

        return await self._store.read(look)

    async def resync(self) -> None:
        """Look at every row that has something to be done, and remove what is on the host and nobody's."""
        there = await self._runtime.snapshots()

        def look(connection: sa.Connection) -> tuple[set[str], list[str]]:
            asleep = {copy_of(devbox_id) for devbox_id in self._devboxes.keeping(connection)}
            return rows.kept(connection) | asleep, rows.to_do(connection)

        known, due = await self._store.read(look)
        for name in set(there) - known:
            self._log.warning("removed a snapshot of no row", snapshot=name)
            await self._runtime.forget_snapshot(name)
        for snapshot_id in due:
            self._keys.poke(snapshot_id)

    def _heard(self, event: events.Event) -> None:
        if event.kind in {"snapshot.in_progress", "snapshot.deleted"}:
            self._keys.poke(event.subject)

    async def _step(self, snapshot_id: str) -> float | None:
        snapshot = await self._store.read(lambda connection: rows.find(connection, snapshot_id))
        if snapshot is None:
            return None
        if snapshot.status is SnapshotStatus.COMPLETE:
            return await self._pass(snapshot) if snapshot.passing else None
        if snapshot.status is SnapshotStatus.IN_PROGRESS:
            outcome = await self._copy(snapshot)
            at_ms = self._clock.now_ms()
            await self._store.write(lambda connection: rows.finish(connection, snapshot_id, outcome, at_ms))
            return 0 if outcome.status is SnapshotStatus.ERROR or snapshot.passing else None
        await self._runtime.forget_snapshot(snapshot_id)
        await self._store.write(lambda connection: rows.forgotten(connection, snapshot_id))
        return None

    async def _pass(self, snapshot: Snapshot) -> float | None:
        """Delete what was made for a fork, once every devbox of it has its box or has ended."""
        at_ms = self._clock.now_ms()

        def delete(connection: sa.Connection) -> bool:
            wanted = self._devboxes.begins_as(connection, snapshot.id)
            return not wanted and rows.delete(connection, snapshot.id, at_ms)

        return 0 if await self._store.write(delete) else _PASSING_S

    async def _copy(self, snapshot: Snapshot) -> rows.Outcome:
        try:
            try:
                copied, why = await self._copied(snapshot)
            except SnapshotExists:
                # Made by a server that ended before it could say so: nobody has used it, and it may be older.
                await self._runtime.forget_snapshot(snapshot.id)
                copied, why = await self._copied(snapshot)
        except errors.Unavailable:
            raise  # which is tried again
        except (RuntimeFailure, errors.CorralError) as problem:
            return rows.Outcome(SnapshotStatus.ERROR, problem.message)
        memory = snapshot.memory
        if memory is not None:
            memory = replace(memory, kept=not why, message=why, size=copied.memory, executions=copied.executions)
        return rows.Outcome(SnapshotStatus.COMPLETE, "", copied.size, copied.still_ms, copied.layers, memory)

    async def _copied(self, snapshot: Snapshot) -> tuple[Copied, str]:
        """Make it; and why it has no memory, where it was to have one."""
        if snapshot.memory is None:
            return await self._disk(snapshot), ""
        try:
            return await self._with_memory(snapshot), ""
        except MemoryNotKept as problem:
            if snapshot.memory.wanted is KeepMemory.ALWAYS:
                raise
            return await self._disk(snapshot), problem.message

    async def _with_memory(self, snapshot: Snapshot) -> Copied:
        devbox_id = snapshot.devbox_id
        kept = await self._store.read(lambda connection: self._devboxes.asleep(connection, devbox_id))
        if kept is not None:
            try:
                memory, executions = await self._runtime.copy_snapshot(copy_of(devbox_id), snapshot.id, memory=True)
            except NoSuchSnapshot:
                pass  # it was resumed meanwhile
            except MemoryNotKept as problem:
                message = f"cannot keep memory of box {devbox_id}: it is suspended without it"
                raise MemoryNotKept(message) from problem
            else:
                return Copied(kept.size, 0.0, kept.layers, memory, executions)
        return await self._runtime.snapshot(devbox_id, snapshot.id, memory=True)

    async def _disk(self, snapshot: Snapshot) -> Copied:
        if snapshot.remote is not None:
            if self._receive is None:
                raise errors.NotOffered("cannot receive snapshot: the setting CORRAL_OBJECTS is gone")
            return await self._receive(snapshot)
        devbox_id = snapshot.devbox_id
        kept = await self._store.read(lambda connection: self._devboxes.asleep(connection, devbox_id))
        if kept is not None:
            try:
                await self._runtime.copy_snapshot(copy_of(devbox_id), snapshot.id)
            except NoSuchSnapshot:
                pass  # it was resumed meanwhile
            else:
                return Copied(kept.size, 0.0, kept.layers)
        return await self._runtime.snapshot(devbox_id, snapshot.id)

    async def _resync_always(self) -> None:
        while True:
            try:
                await self.resync()
            except (RuntimeFailure, errors.CorralError) as problem:
                self._log.warning("round failed", error=problem.message)
            await self._clock.sleep(_RESYNC_S)
