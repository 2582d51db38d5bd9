"""`OciRuntime`: the runtime contract on a Linux host, with an OCI runtime that starts boxes and a guest in each.

Joins the host side (`corral.runtime.oci.host`), the guest's client and the spool. Must not mount, fork or unlink.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from corral.core import log
from corral.core.clock import Clock, SystemClock
from corral.runtime import spool as spools
from corral.runtime.contract import (
    BadCommand,
    Box,
    BoxExhausted,
    BoxExists,
    BoxGone,
    BoxSpec,
    BoxStatus,
    BoxUnresponsive,
    ByteStream,
    Copied,
    ExecSpec,
    FileInfo,
    FileReader,
    HostExhausted,
    HostUnfit,
    Layer,
    MemoryNotKept,
    NoSuchExecution,
    Progress,
    Runtime,
    RuntimeFailure,
    SnapshotExists,
    SnapshotForm,
    Stream,
    TerminalSize,
    Usage,
)
from corral.runtime.guest import Following, GuestClient
from corral.runtime.linux import processes
from corral.runtime.oci import hostfiles, record
from corral.runtime.oci.dormancy import Dormancy
from corral.runtime.oci.faults import settled
from corral.runtime.oci.host import Host, Living
from corral.runtime.oci.listening import listen_in
from corral.runtime.oci.settings import OciSettings
from corral.runtime.oci.stock import BoxStock

#: Between the end of a process and its reaping, when its status can be asked.
REAP_LIMIT_S: Final = 0.2
REAP_PAUSE_S: Final = 0.005
#: A connection to a guest can break a moment before the kernel tells of its end.
DEATH_LIMIT_S: Final = 2.0
#: The same for a call that has an error to tell anyhow.
DYING_LIMIT_S: Final = 0.5
#: Boxes that are measured in one go on a worker thread, some 10 ms: others get their turn in between.
MEASURED_AT_ONCE: Final = 64
#: A guest that wants the processor for this long, and gets less than this part of it, is not the one that hangs.
STARVING_S: Final = 0.5
STARVING_PART: Final = 0.1
#: For calls to end before a guest is parked whose box will go on.
QUIET_LIMIT_S: Final = 2.0
#: Connections of started commands that nobody follows yet, at most.
HANDED_ON: Final = 64


class OciRuntime(Runtime):
    """Boxes of one data folder on this machine. Needs root; see `corral.runtime.oci.probe` for what else."""

    def __init__(self, settings: OciSettings, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._host = Host(settings, self._clock, self._died, self._died_early)
        self._stock = BoxStock(self._host, settings.warm, self._clock, self._greet)
        self._spool = spools.Spool(self._host.places.spool)
        self._deaths: asyncio.Queue[Box] = asyncio.Queue()
        self._mourning: set[asyncio.Task[None]] = set()
        self._log = log.get("runtime")
        self._locks: dict[str, asyncio.Lock] = {}
        self._starts: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._handed_on: dict[tuple[str, str], Following] = {}
        self._dormancy = Dormancy(self._is_kept)

    # -- the host

    async def start(self) -> None:
        await self._host.start()
        for living in [one for one in self._host.living.values() if one.record.handle in self._host.stood]:
            await self._wake_left(living)
        for handle in self._host.stood:
            await asyncio.to_thread(self._host.snapshots.let_go, handle)
        self._stock.start()

    async def close(self) -> None:
        await self._stock.close()
        tasks = {*self._mourning, *self._starts.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._handed_on:
            await self._handed_on.popitem()[1].close()
        await self._host.close()

    # -- boxes

    async def create(self, spec: BoxSpec) -> Box:
        _check_id(spec.id)
        async with self._locked(spec.id):
            if spec.memory:
                living = await self._restore(spec)
            else:
                await self._forget_memory(self._host.memories.of(spec.id))
                with self._stock.making_room():
                    living = await self._claim_prepared(spec) or await self._make(spec)
            return Box(spec.id, BoxStatus.RUNNING, living.record.pid, restored=spec.memory)

    def expect(self, layers: tuple[Layer, ...]) -> None:
        self._stock.expect(layers)

    async def layers(self) -> set[Layer]:
        boxes = (*self._host.living.values(), *self._host.prepared.values())
        used = ((*living.record.layers, *living.record.lent) for living in boxes)
        return self._stock.layers.union(*used)

    async def _make(self, spec: BoxSpec) -> Living:
        try:
            living = await self._host.make(spec)
            await self._claim(living, spec, named=spec.origin is not None)
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
            await self._claim(living, spec, named=True)
            return self._host.hand_over(living)
        except BaseException as problem:
            await settled(self._host.discard(living.record.handle, living))
            if isinstance(problem, BoxExists) or not isinstance(problem, RuntimeFailure | OSError):
                raise
            self._log.warning("cannot claim a prepared box", box=spec.id, cause=str(problem))
            return None

    async def _claim(self, living: Living, spec: BoxSpec, *, named: bool) -> None:
        """Tell the guest whose box it is in; `named` when the files that name the box are of another one's."""
        files = {"hostname": spec.hostname, "hosts": hostfiles.hosts(spec.hostname)} if named else {}
        limit = self._host.settings.hello_limit_s
        env = {**self._host.env, **spec.env}
        try:
            used = spec.origin is not None
            await self._guest_of(living).claim(env=env, user=spec.user, used=used, timeout_s=limit, **files)
        except BoxGone as error:
            message = f"cannot create box {spec.id}: its guest ended at once"
            raise BoxUnresponsive(message) from error

    async def _greet(self, living: Living) -> None:
        await self._guest_of(living).hello(timeout_s=self._host.settings.hello_limit_s)

    async def destroy(self, box_id: str) -> None:
        if not spools.ID_PATTERN.fullmatch(box_id):
            # No box can have this name.
            return
        self._host.abort(box_id)
        async with self._locked(box_id):
            await self._host.remove(box_id)
        await self._drop_handed_on(box_id)
        await asyncio.to_thread(self._lose_all, box_id)
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
                return await self._copy_living(box_id, name)
            box = self._host.recorded(box_id)
            return await settled(asyncio.to_thread(self._host.snapshots.take, box, name))

    # -- memory

    async def checkpoint(self, box_id: str, name: str) -> Copied:
        _check_id(name)
        async with self._locked(box_id):
            living = self._living(box_id)
            await self._require_free(name)
            ready = await self._host.checkpoints.prepare(living, name)
            self._dormancy.park(box_id)
            try:
                await self._drop_handed_on(box_id)
                await self._park(living)
                return await self._host.checkpoints.dump(ready)
            except BaseException:
                await settled(self._unpark(living))
                raise

    async def _copy_living(self, box_id: str, name: str) -> Copied:
        living = self._living(box_id)
        await self._require_free(name)
        if self._dormancy.parked(box_id):
            message = f"cannot keep memory of box {box_id}: it is kept already, and stands still"
            raise MemoryNotKept(message)
        ready = await self._host.checkpoints.prepare(living, name)
        self._dormancy.park(box_id)
        try:
            await self._dormancy.quiet(box_id, QUIET_LIMIT_S)
            await self._drop_handed_on(box_id)
            await self._park(living)
            return await self._host.checkpoints.copy(ready, functools.partial(self._unpark, living))
        finally:
            if self._dormancy.parked(box_id):
                await settled(self._unpark(living))

    async def _require_free(self, name: str) -> None:
        if name in await self.snapshots():
            message = f"cannot make snapshot {name}: there is one already"
            raise SnapshotExists(message)

    async def _park(self, living: Living) -> None:
        """Also a guest that was parked for a memory which was forgotten since. Raises MemoryNotKept."""
        # A server that ends from here on leaves a guest that the next one has to wake.
        self._host.snapshots.mark(living.record.handle)
        await asyncio.to_thread(self._host.snapshots.thaw, living.record.handle)
        try:
            await self._guest_of(living).park()
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
            await self._guest_of(living).wake(listener.fileno(), renamed=renamed)
        fresh.rename(path)

    async def _restore(self, spec: BoxSpec) -> Living:
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
                    await self._claim(living, spec, named=True)
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

    async def _forget_memory(self, name: str | None) -> None:
        """What was kept of a box's processes is given up; unless it lives, they are lost."""
        box_id = None if name is None else await settled(asyncio.to_thread(self._host.memories.forget, name))
        if box_id is None:
            return
        living = self._host.living.get(box_id)
        if living is not None and self._dormancy.parked(box_id):
            await self._unpark(living)
        elif living is None:
            await asyncio.to_thread(self._lose_all, box_id)
            self._dormancy.rouse(box_id)

    def _is_kept(self, box_id: str) -> bool:
        return box_id not in self._host.living and self._host.memories.of(box_id) is not None

    # -- snapshots

    async def copy_snapshot(self, source: str, name: str) -> None:
        _check_id(name)
        await settled(asyncio.to_thread(self._host.snapshots.copy, source, name))

    async def forget_snapshot(self, name: str) -> None:
        if spools.ID_PATTERN.fullmatch(name):
            await self._forget_memory(name)
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
        living = self._living(box_id)
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
        pid = self._living(box_id).record.pid
        if self._dormancy.parked(box_id):
            return  # it answers nobody now, which has an end of its own
        async with self._calling(box_id) as guest:
            try:
                await guest.hello(timeout_s=limit_s)
            except BoxUnresponsive as error:
                if not await self._starves(pid):
                    raise
                message = (
                    f"cannot greet the guest of box {box_id}: the box's commands leave it no turn on the processor"
                )
                raise BoxExhausted(message) from error

    async def _starves(self, pid: int) -> bool:
        """Whether process 1, which owes an answer, waits for turns that it hardly gets.

        54 s were seen, in a fork bomb on a quarter of a CPU. One that is stopped, or sleeps over the question, does
        not want the processor; one that spins gets it.
        """
        try:
            before = processes.turns(pid)
            if not before.wants:
                return False
            await self._clock.sleep(STARVING_S)
            after = processes.turns(pid)
        except ProcessLookupError:
            return False  # it ended meanwhile, which is told elsewhere
        return after.had_s - before.had_s < STARVING_PART * STARVING_S

    # -- executions

    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        """Start it as a task of the runtime's, so that a caller who goes away leaves no half-started command."""
        key = (box_id, spec.id)
        task = self._starts.get(key)
        if task is None:
            task = asyncio.create_task(self._start(box_id, spec), name=f"start {box_id} {spec.id}")
            self._starts[key] = task
            task.add_done_callback(lambda done: self._started(key, done))
        await asyncio.shield(task)

    def _started(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._starts[key]
        if not task.cancelled():
            # Looked at, so that a failure which nobody waits for any more is not reported as forgotten.
            task.exception()

    async def _start(self, box_id: str, spec: ExecSpec) -> None:
        self._living(box_id)
        for _ in range(2):
            try:
                fds = self._spool.open(box_id, spec.id)
            except FileExistsError:
                async with self._calling(box_id) as guest:
                    known = await self._known(guest, box_id, spec.id)
                if known:
                    return
                # A server that ended between opening the spool and asking the guest left these files.
                self._spool.discard(box_id, spec.id)
                continue
            except OSError as error:
                message = f"cannot run {spec.argv[0]!r}: cannot open spool: {error.strerror}"
                raise HostExhausted(message) from error
            with fds:
                try:
                    async with self._calling(box_id) as guest:
                        started = await guest.execute(spec, (fds.stdout, fds.stderr, fds.status))
                except (BadCommand, BoxExhausted, HostExhausted, BoxGone):
                    self._spool.discard(box_id, spec.id)
                    raise
                await self._hand_on((box_id, spec.id), started)
                return
        message = f"cannot run {spec.argv[0]!r}: execution {spec.id} is being started by another"
        raise BadCommand(message)

    async def _hand_on(self, key: tuple[str, str], started: Following) -> None:
        """Keep the connection for the `follow` that comes next: one connection for a command instead of two."""
        self._handed_on[key] = started
        if len(self._handed_on) > HANDED_ON:
            await self._handed_on.pop(next(iter(self._handed_on))).close()

    async def _drop_handed_on(self, box_id: str) -> None:
        """Close what was kept for commands of a box that has ended."""
        for key in [key for key in self._handed_on if key[0] == box_id]:
            await self._handed_on.pop(key).close()

    async def _known(self, guest: GuestClient, box_id: str, exec_id: str) -> bool:
        """Whether an execution with a spool was started."""
        if self._spool.result(box_id, exec_id) is not None:
            return True
        try:
            following = await guest.wait(exec_id)
        except NoSuchExecution:
            return self._spool.result(box_id, exec_id) is not None
        await following.close()
        return True

    async def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        if not self._spool.known(box_id, exec_id):
            message = f"cannot follow execution {exec_id}: box {box_id} has none of this id"
            raise NoSuchExecution(message)
        while True:
            await self._dormancy.over(box_id)
            following = self._handed_on.pop((box_id, exec_id), None)
            async for progress in self._follow(box_id, exec_id, following):
                yield progress
            if self._spool.result(box_id, exec_id) is not None:
                break
            if not self._dormancy.holds(box_id):
                self._spool.mark_lost(box_id, exec_id)
        yield self._progress(box_id, exec_id, ended=True)

    async def _follow(self, box_id: str, exec_id: str, following: Following | None) -> AsyncIterator[Progress]:
        """`follow` until the execution or the box has ended, or the box is held."""
        if self._spool.result(box_id, exec_id) is not None:
            if following is not None:
                await following.close()
        else:
            try:
                async for progress in self._events(box_id, exec_id, following):
                    yield progress
            except (BoxGone, NoSuchExecution):
                await self._wait_for_death(box_id)
            except BoxUnresponsive:
                # The connection of a dying guest ends in the middle of an answer; so does one of a parked guest.
                await self._wait_for_death(box_id)
                if box_id in self._host.living and not self._dormancy.holds(box_id):
                    raise

    async def _events(self, box_id: str, exec_id: str, kept: Following | None) -> AsyncIterator[Progress]:
        """Growth until the guest says that it has ended. What counts is the spool, not the guest's numbers."""
        async with kept or await self._guest(box_id).wait(exec_id) as following:
            async for event in following.events():
                if event.result is not None:
                    return
                yield self._progress(box_id, exec_id, ended=False)

    def _progress(self, box_id: str, exec_id: str, *, ended: bool) -> Progress:
        result = self._spool.result(box_id, exec_id) if ended else None
        size = self._spool.size
        return Progress(size(box_id, exec_id, Stream.STDOUT), size(box_id, exec_id, Stream.STDERR), result)

    async def _wait_for_death(self, box_id: str, limit_s: float = DEATH_LIMIT_S) -> None:
        deadline = self._clock.monotonic() + limit_s
        held = self._dormancy.holds
        while box_id in self._host.living and not held(box_id) and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.01)

    def read_output(self, box_id: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        return self._spool.read(box_id, exec_id, stream, offset, limit)

    def output_size(self, box_id: str, exec_id: str, stream: Stream) -> int:
        return self._spool.size(box_id, exec_id, stream)

    async def signal(
        self, box_id: str, exec_id: str, signal: int, *, group: bool = True, foreground: bool = False
    ) -> None:
        async with self._calling(box_id) as guest:
            await guest.signal(exec_id, signal, group=group, foreground=foreground)

    async def write_stdin(self, box_id: str, exec_id: str, data: bytes, *, close: bool = False) -> None:
        async with self._calling(box_id) as guest:
            await guest.write_stdin(exec_id, data, close=close)

    async def resize(self, box_id: str, exec_id: str, size: TerminalSize) -> None:
        async with self._calling(box_id) as guest:
            await guest.resize(exec_id, size)

    async def attach(
        self, box_id: str, exec_id: str, *, stream: Stream | None = None, patient: bool = False
    ) -> ByteStream:
        async with self._calling(box_id) as guest:
            attached = await guest.attach(exec_id, stream=stream, patient=patient)
        if stream is None or not attached.passed:
            return attached
        read = functools.partial(self._spool.read, box_id, exec_id, stream)
        return spools.SpooledStream(attached, read, attached.passed)

    async def forget_output(self, box_id: str) -> None:
        await asyncio.to_thread(self._spool.forget, box_id)

    # -- files and ports

    async def read_file(self, box_id: str, path: str, *, user: str | None = None) -> FileReader:
        async with self._calling(box_id) as guest:
            return await guest.read_file(path, user=user)

    async def write_file(
        self, box_id: str, path: str, chunks: AsyncIterator[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        async with self._calling(box_id) as guest:
            return await guest.write_file(path, chunks, user=user, mode=mode)

    async def list_files(self, box_id: str, path: str, *, user: str | None = None) -> list[FileInfo]:
        async with self._calling(box_id) as guest:
            return await guest.list_files(path, user=user)

    async def connect(self, box_id: str, port: int) -> ByteStream:
        async with self._calling(box_id) as guest:
            return await guest.connect(port)

    # -- inside

    @contextlib.asynccontextmanager
    async def _calling(self, box_id: str) -> AsyncIterator[GuestClient]:
        """The box's guest. One that stops answering because its box ends is BoxGone, not BoxUnresponsive.

        A dying process 1 closes its connections one after another, and is known to be dead a moment later.
        While the guest is parked, calls wait.
        """
        try:
            async with self._dormancy.call(box_id):
                yield self._guest(box_id)
        except BoxUnresponsive as error:
            await self._wait_for_death(box_id, DYING_LIMIT_S)
            if box_id in self._host.living:
                raise
            raise BoxGone(error.message) from error

    def _living(self, box_id: str) -> Living:
        living = self._host.living.get(box_id)
        if living is None:
            message = f"cannot reach box {box_id}: it does not live"
            raise BoxGone(message)
        return living

    def _guest(self, box_id: str) -> GuestClient:
        return self._guest_of(self._living(box_id))

    def _guest_of(self, living: Living) -> GuestClient:
        return GuestClient(self._host.places.socket(living.record.handle), clock=self._clock)

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
        await self._drop_handed_on(found.id)
        await asyncio.to_thread(self._lose_all, found.id)
        self._deaths.put_nowait(Box(found.id, BoxStatus.DEAD, reason=reason))

    def _lose_all(self, box_id: str) -> None:
        """Executions whose end nobody saw are lost, unless the box's memory is kept: they go on with it."""
        if self._host.memories.of(box_id) is not None:
            return
        for exec_id in self._spool.executions(box_id):
            self._spool.mark_lost(box_id, exec_id)


def _check_id(box_id: str) -> None:
    """A box's id becomes a path. Raises HostUnfit, which ours never cause."""
    if not spools.ID_PATTERN.fullmatch(box_id):
        message = f"cannot use box id {box_id!r}: 1 to 128 of A-Z a-z 0-9 _ - are allowed"
        raise HostUnfit(message, remedy="use another id")
