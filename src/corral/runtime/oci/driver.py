"""`OciRuntime`: the runtime contract on a Linux host, with an OCI runtime that starts boxes and a guest in each.

Joins the host side (`host`), the guests of its boxes (`guests`), their commands (`executions`) and their memory
(`parking`). Must not mount, fork or unlink.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

from corral.core import log
from corral.core.clock import Clock, SystemClock
from corral.core.tasks import settled
from corral.runtime import spool as spools
from corral.runtime.contract import (
    Box,
    BoxExists,
    BoxGone,
    BoxSpec,
    BoxStatus,
    ByteStream,
    Copied,
    ExecSpec,
    FileInfo,
    FileReader,
    HostUnfit,
    Layer,
    Progress,
    Runtime,
    RuntimeFailure,
    SnapshotForm,
    Stream,
    TerminalSize,
    Usage,
)
from corral.runtime.linux import processes
from corral.runtime.oci import record
from corral.runtime.oci.dormancy import Dormancy
from corral.runtime.oci.executions import Executions
from corral.runtime.oci.guests import Guests
from corral.runtime.oci.host import Host
from corral.runtime.oci.parking import Parking
from corral.runtime.oci.record import Living
from corral.runtime.oci.settings import OciSettings
from corral.runtime.oci.stock import BoxStock

#: Between the end of a process and its reaping, when its status can be asked.
REAP_LIMIT_S: Final = 0.2
REAP_PAUSE_S: Final = 0.005
#: Boxes that are measured in one go on a worker thread, some 10 ms: others get their turn in between.
MEASURED_AT_ONCE: Final = 64


class OciRuntime(Runtime):
    """Boxes of one data folder on this machine. Needs root; see `corral.runtime.oci.probe` for what else."""

    def __init__(self, settings: OciSettings, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._host = host = Host(settings, self._clock, self._died, self._died_early)
        self._spool = spool = spools.Spool(host.places.spool)
        self._dormancy = dormancy = Dormancy(self._is_kept)
        self._guests = guests = Guests(host, dormancy, self._clock)
        self._executions = Executions(host, guests, dormancy, spool)
        self._parking = Parking(host, guests, self._executions, dormancy, spool, self._clock)
        self._stock = BoxStock(host, settings.warm, self._clock, guests.greet)
        self._deaths: asyncio.Queue[Box] = asyncio.Queue()
        self._mourning: set[asyncio.Task[None]] = set()
        self._log = log.get("runtime")
        self._locks: dict[str, asyncio.Lock] = {}

    # -- the host

    async def start(self) -> None:
        await self._host.start()
        await self._parking.start()
        self._stock.start()

    async def close(self) -> None:
        await self._stock.close()
        for task in self._mourning:
            task.cancel()
        await asyncio.gather(*self._mourning, return_exceptions=True)
        await self._executions.close()
        await self._host.close()

    # -- boxes

    async def create(self, spec: BoxSpec) -> Box:
        _check_id(spec.id)
        async with self._locked(spec.id):
            if spec.memory:
                living = await self._parking.restore(spec)
            else:
                await self._parking.forget(self._host.memories.of(spec.id))
                with self._stock.making_room():
                    living = await self._claim_prepared(spec) or await self._make(spec)
            return Box(spec.id, BoxStatus.RUNNING, living.record.pid, restored=spec.memory)

    def expect(self, layers: tuple[Layer, ...]) -> None:
        self._stock.expect(layers)

    async def layers(self, *, lasting: bool = False) -> set[Layer]:
        boxes = (*self._host.living.values(), *(() if lasting else self._host.prepared.values()))
        used = ((*living.record.layers, *living.record.lent) for living in boxes)
        return set[Layer]().union(() if lasting else self._stock.layers, *used)

    async def _make(self, spec: BoxSpec) -> Living:
        try:
            living = await self._host.make(spec)
            await self._guests.claim(living, spec, named=spec.origin is not None)
            await settled(asyncio.to_thread(self._host.complete, living, spec))
        except BoxExists:
            raise
        except BaseException:
            await settled(self._host.remove(spec.id))
            raise
        return living

    async def _claim_prepared(self, spec: BoxSpec) -> Living | None:
        """A prepared box as the box of `spec`; None when there is none, or none that can become it."""
        living = self._stock.take(spec)
        if living is None:
            return None
        try:
            await settled(asyncio.to_thread(self._host.assign, living, spec))
            await self._guests.claim(living, spec, named=True)
            return self._host.hand_over(living)
        except BaseException as problem:
            await settled(self._host.discard(living.record.handle, living))
            if isinstance(problem, BoxExists) or not isinstance(problem, RuntimeFailure | OSError):
                raise
            self._log.warning("cannot claim a prepared box", box=spec.id, cause=str(problem))
            return None

    async def destroy(self, box_id: str) -> None:
        if not spools.ID_PATTERN.fullmatch(box_id):
            # No box can have this name.
            return
        self._host.abort(box_id)
        async with self._locked(box_id):
            await self._host.remove(box_id)
        await self._executions.let_go(box_id)
        await asyncio.to_thread(self._executions.lose_all, box_id)
        self._dormancy.unpark(box_id)

    async def boxes(self) -> list[Box]:
        names = await asyncio.to_thread(self._host.names)
        found = []
        for name in names:
            try:
                found.append(self._host.look(name))
            except BoxGone:
                continue
        return found

    async def inspect(self, box_id: str) -> Box:
        return self._host.look(box_id)

    async def deaths(self) -> AsyncIterator[Box]:
        while True:
            yield await self._deaths.get()

    async def snapshot(self, box_id: str, name: str, *, memory: bool = False) -> Copied:
        _check_id(name)
        async with self._locked(box_id):
            if memory:
                return await self._parking.copy(box_id, name)
            box = self._host.recorded(box_id)
            return await settled(asyncio.to_thread(self._host.snapshots.take, box, name))

    # -- memory

    async def checkpoint(self, box_id: str, name: str) -> Copied:
        _check_id(name)
        async with self._locked(box_id):
            return await self._parking.checkpoint(box_id, name)

    # -- snapshots

    async def copy_snapshot(self, source: str, name: str, *, memory: bool = False) -> tuple[int, tuple[str, ...]]:
        _check_id(name)
        if memory:
            return await self._share(source, name)
        await settled(asyncio.to_thread(self._host.snapshots.copy, source, name))
        return 0, ()

    async def forget_snapshot(self, name: str) -> None:
        if spools.ID_PATTERN.fullmatch(name):
            await self._parking.forget(name)
            await asyncio.to_thread(self._host.snapshots.forget, name)

    async def snapshots(self) -> list[str]:
        return await asyncio.to_thread(self._host.snapshots.names)

    @property
    def snapshot_form(self) -> SnapshotForm:
        return self._host.snapshots.form

    def send_snapshot(self, name: str, parent: str | None = None) -> AsyncIterator[bytes]:
        return self._host.snapshots.send(name, parent)

    async def receive_snapshot(self, name: str, streams: AsyncIterator[AsyncIterator[bytes]]) -> None:
        _check_id(name)
        await self._host.snapshots.receive(name, streams)

    async def usage(self, box_id: str) -> Usage:
        living = self._guests.living(box_id)
        used = await asyncio.to_thread(self._host.usage, living.record)
        self._host.saw(living, used.oom_kills)
        return used

    async def usages(self, box_ids: Sequence[str]) -> dict[str, Usage]:
        found: dict[str, Usage] = {}
        for start in range(0, len(box_ids), MEASURED_AT_ONCE):
            there = [self._host.living.get(box_id) for box_id in box_ids[start : start + MEASURED_AT_ONCE]]
            living = {one.record.id: one for one in there if one is not None}
            used = await asyncio.to_thread(self._host.usages, [one.record for one in living.values()])
            for box_id, usage in used.items():
                self._host.saw(living[box_id], usage.oom_kills)
            found |= used
        return found

    async def ping(self, box_id: str, limit_s: float = 5.0) -> None:
        await self._guests.ping(box_id, limit_s)

    # -- executions

    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        await self._executions.execute(box_id, spec)

    def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        return self._executions.follow(box_id, exec_id)

    def read_output(self, box_id: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        return self._spool.read(box_id, exec_id, stream, offset, limit)

    def output_size(self, box_id: str, exec_id: str, stream: Stream) -> int:
        return self._spool.size(box_id, exec_id, stream)

    def output_missing(self, box_id: str, exec_id: str, stream: Stream) -> bool:
        return self._spool.missing(box_id, exec_id, stream)

    async def signal(
        self, box_id: str, exec_id: str, signal: int, *, group: bool = True, foreground: bool = False
    ) -> None:
        async with self._guests.calling(box_id) as guest:
            await guest.signal(exec_id, signal, group=group, foreground=foreground)

    async def write_stdin(self, box_id: str, exec_id: str, data: bytes, *, close: bool = False) -> None:
        async with self._guests.calling(box_id) as guest:
            await guest.write_stdin(exec_id, data, close=close)

    async def resize(self, box_id: str, exec_id: str, size: TerminalSize) -> None:
        async with self._guests.calling(box_id) as guest:
            await guest.resize(exec_id, size)

    async def attach(
        self, box_id: str, exec_id: str, *, stream: Stream | None = None, patient: bool = False
    ) -> ByteStream:
        return await self._executions.attach(box_id, exec_id, stream=stream, patient=patient)

    async def forget_output(self, box_id: str) -> None:
        await asyncio.to_thread(self._spool.forget, box_id)

    # -- files and ports

    async def read_file(self, box_id: str, path: str, *, user: str | None = None) -> FileReader:
        async with self._guests.calling(box_id) as guest:
            return await guest.read_file(path, user=user)

    async def write_file(
        self, box_id: str, path: str, chunks: AsyncIterator[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        async with self._guests.calling(box_id) as guest:
            return await guest.write_file(path, chunks, user=user, mode=mode)

    async def list_files(self, box_id: str, path: str, *, user: str | None = None) -> list[FileInfo]:
        async with self._guests.calling(box_id) as guest:
            return await guest.list_files(path, user=user)

    async def connect(self, box_id: str, port: int) -> ByteStream:
        async with self._guests.calling(box_id) as guest:
            return await guest.connect(port)

    # -- inside

    async def _share(self, source: str, name: str) -> tuple[int, tuple[str, ...]]:
        await asyncio.to_thread(self._host.snapshots.require, source)
        meta = await asyncio.to_thread(self._host.memories.read, source)
        # Whoever makes the box of it, or gives it up, waits.
        async with self._locked("" if meta is None else meta.box):
            return await settled(asyncio.to_thread(self._host.checkpoints.share, source, name))

    def _is_kept(self, box_id: str) -> bool:
        return box_id not in self._host.living and self._host.memories.of(box_id) is not None

    def _locked(self, box_id: str) -> asyncio.Lock:
        """One create or destroy of a box at a time. Locks that nobody holds are dropped when there are many."""
        if len(self._locks) > 1024:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(box_id, asyncio.Lock())

    def _died(self, living: Living) -> None:
        task = asyncio.create_task(self._mourn(living), name=f"death {living.record.id}")
        self._mourning.add(task)
        task.add_done_callback(self._mourning.discard)

    def _died_early(self, living: Living) -> None:
        if self._stock.lost(living):
            handle = living.record.handle
            task = asyncio.create_task(self._host.discard(handle, living), name=f"death {handle}")
            self._mourning.add(task)
            task.add_done_callback(self._mourning.discard)

    async def _mourn(self, living: Living) -> None:
        try:
            status = processes.exit_status(living.process)
            deadline = self._clock.monotonic() + REAP_LIMIT_S
            while status is None and self._clock.monotonic() < deadline:
                await self._clock.sleep(REAP_PAUSE_S)
                status = processes.exit_status(living.process)
        finally:
            os.close(living.process)
        found: record.Record = living.record
        reason = self._host.reason(found, status)
        await self._executions.let_go(found.id)
        await asyncio.to_thread(self._executions.lose_all, found.id)
        self._deaths.put_nowait(Box(found.id, BoxStatus.DEAD, reason=reason))


def _check_id(box_id: str) -> None:
    """A box's id becomes a path. Raises HostUnfit, which ours never cause."""
    if not spools.ID_PATTERN.fullmatch(box_id):
        message = f"cannot use box id {box_id!r}: 1 to 128 of A-Z a-z 0-9 _ - are allowed"
        raise HostUnfit(message, remedy="use another id")
