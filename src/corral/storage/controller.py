"""Brings the object store to what the rows say: ends objects whose time is over, removes content that nobody needs.

Owns the sweeps. A row says that content is not needed before the content is removed, so that a crash in between
leaves something to sweep and never a row without its content.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import sqlalchemy as sa

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.storage import rows
from corral.storage.backend import ObjectStore
from corral.storage.model import ObjectState
from corral.storage.service import Places

#: Seconds between two looks at what is due, and between two comparisons of all content with all rows.
SWEEP_S: Final = 5.0
COMPARE_S: Final = 3600.0

#: Milliseconds for which content is awaited.
AWAIT_MS: Final = 24 * 3600 * 1000

_WORKERS: Final = 4
_GONE: Final = frozenset({ObjectState.DELETED, ObjectState.ERROR})


class ObjectController:
    """`open` once, then `run` until cancelled."""

    def __init__(
        self, store: Store, feed: events.Feed, contents: ObjectStore, places: Places, *, clock: Clock
    ) -> None:
        self._store = store
        self._contents = contents
        self._places = places
        self._clock = clock
        self._keys = Reconciler(self._step, clock=clock, workers=_WORKERS, part="storage")
        self._log = log.get("storage")
        feed.listen(self._heard)

    async def open(self) -> None:
        """See that this is the object store that the objects of this server are in.

        Raises errors.Unavailable when it is another one, or does not answer.
        """
        if await self._contents.size(self._places.marker) is not None:
            return
        if await self._store.read(rows.any_kept):
            raise errors.Unavailable(
                f"cannot use object store {self._contents.called}: the objects of this server are in another one",
                remedy="set CORRAL_OBJECTS to what it was, or copy everything that is there",
            )
        await self._contents.put_bytes(self._places.marker, b"objects of a Corral server\n")

    async def run(self) -> None:
        """Work until cancelled."""
        staged = await asyncio.to_thread(self._contents.clear_staged)
        if staged:
            self._log.info("removed half uploads of an earlier server", count=staged)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile objects")
            every = partial(rounds, clock=self._clock, part="storage")
            group.create_task(every(self.sweep, every_s=SWEEP_S), name="sweep objects")
            group.create_task(every(self.compare, every_s=COMPARE_S), name="compare objects")

    async def sweep(self) -> None:
        """End what is due, and look at everything that has content to be removed."""
        now_ms = self._clock.now_ms()

        def end(connection: sa.Connection) -> list[str]:
            for object_id in rows.over(connection, now_ms):
                message = "its time is over"
                rows.move(connection, object_id, rows.LIVE, ObjectState.DELETED, now_ms, message=message)
            for object_id in rows.given_up(connection, now_ms - AWAIT_MS):
                message = f"it was not completed within {AWAIT_MS // 3_600_000} hours"
                awaited = (ObjectState.UPLOADING,)
                rows.move(connection, object_id, awaited, ObjectState.ERROR, now_ms, message=message)
            return rows.to_remove(connection)

        for object_id in await self._store.write(end):
            self._keys.poke(object_id)

    async def compare(self) -> None:
        """Remove content that belongs to no row, or is not where its row has it."""
        if await self._contents.size(self._places.marker) is None:
            self._log.error("the object store is not the one of this server", store=self._contents.called)
            return
        batch: list[str] = []
        async for key in self._contents.keys(self._places.prefix):
            batch.append(key)
            if len(batch) >= rows.BATCH:
                await self._remove_strays(batch)
                batch = []
        await self._remove_strays(batch)

    async def _remove_strays(self, keys: list[str]) -> None:
        """Remove those of the keys, which were listed before the rows are read, that no row accounts for."""
        named = {key: key.rsplit("/", 1)[-1] for key in keys if key != self._places.marker}
        if not named:
            return
        states = await self._store.read(lambda connection: rows.states(connection, list(named.values())))
        for key, object_id in named.items():
            state = states.get(object_id)
            # A row is there before its content is, and the rows were read after the keys.
            late = state is ObjectState.READ_ONLY and key == self._places.upload(object_id)
            if state is None or state in _GONE or late:
                self._log.warning("removed content of no object", key=key)
                await self._contents.remove([key])

    def _heard(self, event: events.Event) -> None:
        if event.kind in {"object.deleted", "object.error"}:
            self._keys.poke(event.subject)

    async def _step(self, object_id: str) -> float | None:
        found = await self._store.read(lambda connection: rows.find(connection, object_id))
        if found is None or found.state not in _GONE:
            return None
        await self._contents.remove([self._places.upload(object_id), self._places.content(object_id)])
        await self._store.write(lambda connection: rows.forgotten(connection, object_id))
        return None
