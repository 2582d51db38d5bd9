"""What makes the world follow the wishes for snapshots: copies that are asked for, and those to remove.

Owns the loop. It acts on the events of `snapshots`, and on what it finds after a restart. Must not answer callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.devboxes.model import KeepMemory, copy_of
from corral.devboxes.service import Devboxes
from corral.images import snapshot_rows as rows
from corral.images.model import Snapshot, SnapshotStatus
from corral.runtime.contract import (
    Copied,
    Layer,
    MemoryNotKept,
    NoSuchSnapshot,
    Runtime,
    RuntimeFailure,
    SnapshotExists,
)

#: Seconds between two comparisons of all rows with all snapshots on the host.
_RESYNC_S: Final = 60.0
#: Seconds between two looks whether a fork is complete.
_PASSING_S: Final = 0.5

#: Makes a snapshot of the remote copy that it names.
Receive = Callable[[Snapshot], Awaitable[Copied]]


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
            looks = rounds(self.resync, every_s=_RESYNC_S, clock=self._clock, part="images.snapshots")
            group.create_task(looks, name="compare snapshots")

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
