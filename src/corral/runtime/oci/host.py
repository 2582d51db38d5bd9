"""The host side of the driver: boxes that live, with the pidfd of each, and what is to be done with them.

Owns which boxes there are. What they share is `shared`'s, how one comes up `making`'s, how it goes `removal`'s. Must
not talk to a guest.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corral.core.clock import Clock
from corral.core.tasks import settled
from corral.runtime.contract import (
    Box,
    BoxGone,
    BoxSpec,
    BoxStatus,
    DeathReason,
    HostUnfit,
    Usage,
)
from corral.runtime.linux import uts
from corral.runtime.oci import measuring, probe, record, slots
from corral.runtime.oci.checkpoints import Checkpoints
from corral.runtime.oci.faults import ended_at_once, exists
from corral.runtime.oci.launching import LauncherClient
from corral.runtime.oci.making import Maker
from corral.runtime.oci.memories import Memories
from corral.runtime.oci.record import Living
from corral.runtime.oci.removal import Removal
from corral.runtime.oci.settings import OciSettings
from corral.runtime.oci.shared import Shared
from corral.runtime.oci.snapshots import Snapshots
from corral.runtime.spool import ID_PATTERN


class Host:
    """One data folder's boxes on this machine.

    `died` is called, on the event loop, when a process 1 has ended; `died_early` when it was a prepared box's.
    """

    def __init__(
        self,
        settings: OciSettings,
        clock: Clock,
        died: Callable[[Living], None],
        died_early: Callable[[Living], None],
    ) -> None:
        self.shared = Shared(settings, clock)
        self.settings, self.places = self.shared.settings, self.shared.places
        self.layout, self.pool = self.shared.layout, self.shared.pool
        self.clock = clock
        self.living: dict[str, Living] = {}
        #: Boxes that are nobody's yet, by handle.
        self.prepared: dict[str, Living] = {}
        self._removal = Removal(self.settings, self.places, self.layout, self.pool)
        self.snapshots = Snapshots(self.places, self.layout, self.pool, clock)
        #: Boxes that a killed server left standing still, or with a guest that is parked, by handle.
        self.stood: set[str] = set()
        self.memories = Memories(self.places.data / "memory")
        self.checkpoints = Checkpoints(self, settings.criu)
        self._died = died
        self._died_early = died_early
        keep = (self.places.data, *settings.layer_roots, settings.guest, settings.run)
        # The launcher holds the lock too: nobody else may use the data folder until it has ended.
        self.launcher = LauncherClient(keep, lambda: (self.shared.lock,), self._launcher_ended)
        self._stock = slots.SlotStock(
            self.launcher, self.shared.blocks, self.shared.plan, settings.slots_ready, clock, self.shared.wall
        )
        self.maker = Maker(self.shared, self.snapshots, self.launcher, self._stock)

    # ---------------------------------------------------------------- the host as a whole

    async def start(self) -> None:
        """Check the host, make what all boxes share, and adopt those that live. Raises HostUnfit."""
        probe.require(await asyncio.to_thread(probe.facts, self.settings))
        for folder in (self.places.boxes, self.places.prepared):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings.data.chmod(0o700)
        try:
            await self.shared.take_lock()
            known = await settled(asyncio.to_thread(self._prepare))
            await self.launcher.start()
            self._adopt(known)
            if not self.shared.blocks.held:
                await settled(asyncio.to_thread(self.shared.blocks.grow))
            await self.shared.wall()
            self._stock.start()
        except BaseException:
            await self._let_go()
            raise

    async def close(self) -> None:
        """Let go of the boxes, which go on. With no box on the host, also of all that the host lent. Idempotent."""
        if self.shared.lock < 0:
            return
        await self._let_go(give_back=True)

    async def _let_go(self, *, give_back: bool = False) -> None:
        try:
            await self._stock.close()
            await self.launcher.close()
            loop = asyncio.get_running_loop()
            for living in (*self.living.values(), *self.prepared.values()):
                loop.remove_reader(living.process)
                os.close(living.process)
            self.living.clear()
            self.prepared.clear()
            await settled(asyncio.to_thread(self._clear_prepared))
            if give_back and not any(self.places.boxes.iterdir()):
                await settled(asyncio.to_thread(self.shared.give_back))
        finally:
            self.shared.unlock()

    def _prepare(self) -> list[record.Record]:
        self.shared.open()
        self._clear_prepared()
        self.stood = self.snapshots.open()
        self.memories.open()
        self.shared.furnish()
        known = [kept for name in self.names() if (kept := record.read(self.places.box(name))) is not None]
        self._drop_strays(known)
        self.shared.blocks.open({kept.slot for kept in known})
        return known

    def _drop_strays(self, known: list[record.Record]) -> None:
        """Remove disks of no box: a loss of power takes back what the disk pool had not written down as removed."""
        for handle in {*self.pool.disks()} - {*self.names(), *(kept.handle for kept in known)}:
            self.pool.delete(handle)

    def _launcher_ended(self) -> None:
        self._stock.lose()

    def _clear_prepared(self) -> None:
        """Remove boxes that nobody has claimed, and those whose claim did not come to its end.

        To adopt them would save a start a few boxes, and need a proof that no claim has touched them.
        """
        for folder in self.places.prepared.iterdir():
            self._removal.remove(folder, None, record.read(folder))

    def _adopt(self, known: list[record.Record]) -> None:
        for found in known:
            process = found.open_process()
            if process is not None:
                self._watch(self.living, Living(found, process))

    # ---------------------------------------------------------------- boxes

    def names(self) -> list[str]:
        """Ids of every box that has something on the host."""
        return sorted(path.name for path in self.places.boxes.iterdir())

    def look(self, box_id: str) -> Box:
        """The box as it is now. Raises BoxGone."""
        living = self.living.get(box_id)
        if living is not None:
            return Box(box_id, BoxStatus.RUNNING, living.record.pid, restored=living.record.restored)
        folder = self.places.box(box_id)
        if not ID_PATTERN.fullmatch(box_id) or not folder.is_dir():
            message = f"cannot inspect box {box_id[:128]!r}: there is none"
            raise BoxGone(message)
        found = record.read(folder)
        if found is not None and found.boot != record.boot_id():
            return Box(box_id, BoxStatus.DEAD, reason=DeathReason.HOST_RESTARTED)
        if found is not None and found.pid:
            return Box(box_id, BoxStatus.DEAD, reason=self.reason(found, None))
        return Box(box_id, BoxStatus.DEAD)

    def recorded(self, box_id: str) -> record.Record:
        """The record of a box, dead or alive. Raises BoxGone."""
        found = record.read(self.places.box(box_id)) if ID_PATTERN.fullmatch(box_id) else None
        if found is None:
            message = f"cannot find box {box_id[:128]!r}: there is none"
            raise BoxGone(message)
        return found

    async def make(self, spec: BoxSpec) -> Living:
        """Make a box up to a running process 1, whose guest was not asked yet. What is half-made is left to `remove`.

        On disk it stays half-made until `complete`: a guest that was not told whose it is must not be adopted.
        Raises BoxExists, HostExhausted, HostUnfit. When it is cancelled, nothing of it is in progress any more.
        """
        if spec.nested and not self.settings.nested:
            message = f"cannot create box {spec.id}: boxes that hold containers are switched off on this server"
            raise HostUnfit(message, remedy="set CORRAL_NESTED to on")
        living = await self.maker.make(self.places.box(spec.id), spec)
        self._watch(self.living, living)
        return living

    async def make_ahead(self, spec: BoxSpec) -> Living:
        """As `make`, a box that is nobody's yet. `spec.id` is its handle. What is half-made is left to `discard`."""
        living = await self.maker.make(self.places.prepared / spec.id, spec)
        record.write(self.places.prepared / spec.id, living.record)
        self._watch(self.prepared, living)
        return living

    def assign(self, living: Living, spec: BoxSpec) -> None:
        """Give a prepared box the limits and the host name of `spec`. Blocks for some system calls.

        It stays a prepared one until `hand_over`: whatever ends in between, this server too, ends it as one.
        Raises OSError.
        """
        handle, before = living.record.handle, living.record.limits
        living.record = living.record.claimed(spec)
        if spec.limits != before:
            self.shared.group(handle).limit(self.maker.resources(spec))
        if spec.limits.disk != before.disk and not self.pool.resize(handle, spec.limits.disk):
            raise OSError(errno.ENOTSUP, "a disk in a file keeps its size")
        uts.set_hostname(living.process, spec.hostname)
        record.write(self.places.prepared / handle, living.record)

    def complete(self, living: Living, spec: BoxSpec) -> None:
        """Record that a box of `make` is whole, as its guest has been told whose it is. Raises OSError."""
        if spec.origin is not None:
            # A copy had room for its start, also of a disk that was full.
            self.pool.resize(living.record.handle, living.record.limits.disk)
        record.write(self.places.box(spec.id), living.record)

    def hand_over(self, living: Living) -> Living:
        """Make a prepared box the one that its record says, in one step. Raises BoxExists, BoxGone."""
        found = living.record
        if self.prepared.get(found.handle) is not living:
            message = f"cannot claim box {found.handle}: it has ended"
            raise BoxGone(message)
        try:
            (self.places.prepared / found.handle).rename(self.places.box(found.id))
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise exists(found.id) from error
        self.living[found.id] = self.prepared.pop(found.handle)
        return living

    def restored(self, spec: BoxSpec, slot: int, pid: int, *, whole: bool) -> Living:
        """Take a box that was made from a dump for one that lives; unless `whole`, half-made until `complete`.

        Raises HostUnfit.
        """
        try:
            found = replace(record.Record.of(spec, slot).living(pid), restored=True)
        except ProcessLookupError:
            raise ended_at_once(spec.id) from None
        if whole:
            record.write(self.places.box(spec.id), found)
        process = found.open_process()
        if process is None:
            raise ended_at_once(spec.id)
        living = Living(found, process)
        self._watch(self.living, living)
        return living

    def abort(self, box_id: str) -> None:
        """End the launch of a box, if one is in progress; `make` then raises."""
        self.maker.abort(box_id)

    async def remove(self, box_id: str) -> None:
        """End a box and remove what is its own. Idempotent. Raises HostUnfit."""
        await self._clear(self.places.box(box_id), self.living.pop(box_id, None))

    async def discard(self, handle: str, living: Living | None = None) -> None:
        """End a prepared box and remove what is its own. `living` is one that has ended. Raises HostUnfit."""
        await self._clear(self.places.prepared / handle, self.prepared.pop(handle, living))

    async def _clear(self, folder: Path, living: Living | None) -> None:
        if living is not None:
            asyncio.get_running_loop().remove_reader(living.process)
        found = record.read(folder)
        process = living.process if living is not None else None
        await settled(asyncio.to_thread(self._removal.remove, folder, process, found))
        if found is not None:
            self._stock.give_back(found.slot)

    def usage(self, found: record.Record) -> Usage:
        """What a box uses now. Raises BoxGone."""
        return measuring.usage(self.shared, found)

    def usages(self, found: Sequence[record.Record]) -> dict[str, Usage]:
        """`usage` of each, less those that are gone."""
        return measuring.usages(self.shared, found)

    def saw(self, living: Living, oom_kills: int) -> None:
        """Remember kills for memory that the box has outlived: they do not explain its end."""
        if oom_kills > living.record.oom_kills and self.living.get(living.record.id) is living:
            living.record = replace(living.record, oom_kills=oom_kills)
            record.write(self.places.box(living.record.id), living.record)

    @property
    def env(self) -> Mapping[str, str]:
        """What every box gets of the server's environment: proxies and the like."""
        return self.shared.host.env

    # ---------------------------------------------------------------- deaths

    def _watch(self, where: dict[str, Living], living: Living) -> None:
        where[living.record.id] = living
        asyncio.get_running_loop().add_reader(living.process, self._ended, living)

    def _ended(self, living: Living) -> None:
        asyncio.get_running_loop().remove_reader(living.process)
        if self.living.get(living.record.id) is living:
            del self.living[living.record.id]
            self._died(living)
        elif self.prepared.get(living.record.handle) is living:
            del self.prepared[living.record.handle]
            self._died_early(living)

    def reason(self, found: record.Record, status: int | None) -> DeathReason:
        """Why process 1 ended. `status` is its wait status, None when the kernel does not tell it any more."""
        return measuring.reason(self.shared, found, status)
