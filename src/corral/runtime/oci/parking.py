"""Memory of boxes that is kept and brought back: the guest is parked before, and woken afterwards.

Owns the order of what a guest does and what `checkpoints` does to its box. Must not make boxes that begin without a
memory.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Final

from corral.core import log
from corral.core.clock import Clock
from corral.core.tasks import settled
from corral.runtime import spool as spools
from corral.runtime.contract import (
    BoxExhausted,
    BoxExists,
    BoxSpec,
    BoxUnresponsive,
    Copied,
    MemoryNotKept,
    RuntimeFailure,
    SnapshotExists,
)
from corral.runtime.guest import GuestClient
from corral.runtime.oci.dormancy import Dormancy
from corral.runtime.oci.executions import Executions
from corral.runtime.oci.guests import Guests
from corral.runtime.oci.host import Host
from corral.runtime.oci.listening import listen_in
from corral.runtime.oci.record import Living

#: For calls to end before a guest is parked whose box will go on.
QUIET_LIMIT_S: Final = 2.0


class Parking:
    """Of one host's boxes. Callers see to it that one thing at a time happens to a box."""

    def __init__(
        self,
        host: Host,
        guests: Guests,
        executions: Executions,
        dormancy: Dormancy,
        spool: spools.Spool,
        clock: Clock,
    ) -> None:
        self._host = host
        self._guests = guests
        self._executions = executions
        self._dormancy = dormancy
        self._spool = spool
        self._clock = clock
        self._log = log.get("runtime")

    async def start(self) -> None:
        """Wake the guests that an earlier server parked and did not wake."""
        for living in [one for one in self._host.living.values() if one.record.handle in self._host.stood]:
            await self._wake_left(living)
        for handle in self._host.stood:
            await asyncio.to_thread(self._host.snapshots.let_go, handle)

    async def checkpoint(self, box_id: str, name: str) -> Copied:
        """See `Runtime.checkpoint`."""
        living = self._guests.living(box_id)
        await self._require_free(name)
        ready = await self._host.checkpoints.prepare(living, name)
        self._dormancy.park(box_id)
        try:
            await self._executions.let_go(box_id)
            await self._park(living)
            return await self._host.checkpoints.dump(ready)
        except BaseException:
            await settled(self._unpark(living))
            raise

    async def copy(self, box_id: str, name: str) -> Copied:
        """See `Runtime.snapshot`, with memory."""
        living = self._guests.living(box_id)
        await self._require_free(name)
        if self._dormancy.parked(box_id):
            message = f"cannot keep memory of box {box_id}: it is kept already, and stands still"
            raise MemoryNotKept(message)
        ready = await self._host.checkpoints.prepare(living, name)
        self._dormancy.park(box_id)
        try:
            await self._dormancy.quiet(box_id, QUIET_LIMIT_S)
            await self._executions.let_go(box_id)
            await self._park(living)
            return await self._host.checkpoints.copy(ready, functools.partial(self._unpark, living))
        finally:
            if self._dormancy.parked(box_id):
                await settled(self._unpark(living))

    async def _require_free(self, name: str) -> None:
        if name in await asyncio.to_thread(self._host.snapshots.names):
            message = f"cannot make snapshot {name}: there is one already"
            raise SnapshotExists(message)

    async def _park(self, living: Living) -> None:
        """Also a guest that was parked for a memory which was forgotten since. Raises MemoryNotKept."""
        # A server that ends from here on leaves a guest that the next one has to wake.
        self._host.snapshots.mark(living.record.handle)
        await asyncio.to_thread(self._host.snapshots.thaw, living.record.handle)
        try:
            await self._guests.of(living).park()
        except (BoxExhausted, BoxUnresponsive) as problem:
            message = f"cannot keep memory of box {living.record.id}: {problem.message}"
            raise MemoryNotKept(message) from problem

    async def _unpark(self, living: Living) -> None:
        """Let a box go on as if nothing had been tried. A guest that does not answer is found out about by `ping`."""
        await asyncio.to_thread(self._host.snapshots.thaw, living.record.handle)
        if self._host.living.get(living.record.id) is living:
            await self._wake_left(living)
        await asyncio.to_thread(self._host.snapshots.let_go, living.record.handle)
        self._dormancy.unpark(living.record.id)

    async def _wake_left(self, living: Living) -> None:
        try:
            await self._wake(living)
        except (RuntimeFailure, OSError) as problem:
            self._log.warning("guest not woken", box=living.record.id, cause=str(problem))

    async def _wake(self, living: Living, renamed: Mapping[str, str] | None = None) -> None:
        """Have the guest go on, on a socket that the next dump will find. Raises RuntimeFailure, OSError."""
        path = self._host.places.socket(living.record.handle)
        fresh = path.with_suffix(".new")
        if fresh.exists():
            # Of a server that ended: before the guest was told, or after that and before this was its socket's name.
            try:
                await GuestClient(fresh, clock=self._clock).hello()
                fresh.rename(path)
            except RuntimeFailure:
                pass
            fresh.unlink(missing_ok=True)
        listener = await asyncio.to_thread(listen_in, living.process, fresh)
        with listener:
            await self._guests.of(living).wake(listener.fileno(), renamed=renamed)
        fresh.rename(path)

    async def restore(self, spec: BoxSpec) -> Living:
        """The box of `spec` with the memory that it is to begin with. Raises what `Runtime.create` does."""
        if self._host.places.box(spec.id).exists():
            message = f"cannot create box {spec.id}: there is one already"
            raise BoxExists(message)
        meta = self._host.checkpoints.kept(spec)
        self._dormancy.park(spec.id)
        try:
            living = await self._host.checkpoints.restore(spec, meta)
            try:
                await self._wake(living, spec.executions if meta.shared else None)
                if meta.shared:
                    await self._guests.claim(living, spec, named=True)
                    await settled(asyncio.to_thread(self._host.complete, living, spec))
            except (RuntimeFailure, OSError) as problem:
                message = f"cannot bring back memory of box {spec.id}: its guest does not answer: {problem}"
                raise MemoryNotKept(message) from problem
            await asyncio.to_thread(self._host.snapshots.let_go, living.record.handle)
        except BoxExists:
            raise
        except BaseException:
            await settled(self._host.remove(spec.id))
            if meta.shared:
                await asyncio.to_thread(self._spool.forget, spec.id)
            raise
        finally:
            self._dormancy.unpark(spec.id)
        return living

    async def forget(self, name: str | None) -> None:
        """What was kept of a box's processes is given up; unless it lives, they are lost."""
        box_id = None if name is None else await settled(asyncio.to_thread(self._host.memories.forget, name))
        if box_id is None:
            return
        living = self._host.living.get(box_id)
        if living is not None and self._dormancy.parked(box_id):
            await self._unpark(living)
        elif living is None:
            await asyncio.to_thread(self._executions.lose_all, box_id)
            self._dormancy.rouse(box_id)
