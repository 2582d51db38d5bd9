"""Dumping a box to disk and making it, or others, from there: memory and disk of one moment, by CRIU.

Owns the order of steps, so that a server that is killed at any of them leaves a box that runs, or a dump that is
whole. Must not talk to guests: the driver parks and wakes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core import wholefile
from corral.core.tasks import settled
from corral.runtime.contract import GIB, MIB, BoxSpec, Copied, HostExhausted, MemoryNotKept, RuntimeFailure
from corral.runtime.linux import randomness
from corral.runtime.network.namespace import SlotWish
from corral.runtime.oci import config, criu, imagefiles, memories, record, restoring
from corral.runtime.oci.calling import Caller
from corral.runtime.rootfs import steps
from corral.runtime.spool import copy_start

if TYPE_CHECKING:
    from corral.runtime.oci.host import Host
    from corral.runtime.oci.record import Living

#: For all of a dump, or of a restore: what it may take at least, and how much memory a slow disk takes in a second.
LIMIT_S: Final = 20.0
SLOWEST: Final = 32 * MIB
#: Left free on the disk of the data folder by a dump.
RESERVE: Final = GIB
#: What a box of another's memory may take over of output. The files are what a hostile guest made of them.
MOST_OUTPUT: Final = GIB
_READABLE: Final = "-open"
#: How often a box is frozen whose guest was in the middle of something, and for how long it goes on in between.
TRIES: Final = 5
PAUSE_S: Final = 0.05
_IN_FLIGHT: Final = re.compile(r"in-flight socket|guest holds \d+ sockets")

#: Has a box go on.
GoOn = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ready:
    """A dump that can begin: of which box, under which name, by which program, with what limit; `disk` in bytes."""

    living: Living
    name: str
    program: criu.Criu
    disk: int
    limit_s: float


class Checkpoints:
    """Of one host's boxes."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._caller = Caller(host, folder)
        #: Held while files that all restores share are made.
        self._writing = threading.Lock()

    # ---------------------------------------------------------------- to disk

    async def prepare(self, living: Living, name: str) -> Ready:
        """Do what can be done of a dump before the guest is parked. Raises MemoryNotKept, HostExhausted, HostUnfit."""
        found = living.record
        try:
            program = await self._caller.program()
        except criu.NoCriu as problem:
            raise _not_kept(found.id, f"{problem}; see corral doctor") from problem
        size = await asyncio.to_thread(self._require_room, found)
        await settled(asyncio.to_thread(self._host.pool.flush, found.handle, name))
        disk = await asyncio.to_thread(self._host.pool.used, found.handle)
        return Ready(living, name, program, disk, LIMIT_S + size / SLOWEST)

    async def dump(self, ready: Ready) -> Copied:
        """Keep memory and disk of a box whose guest is parked. It stands still when this returns.

        Raises MemoryNotKept, HostExhausted, HostUnfit: it goes on then, with a guest that is still parked.
        """
        return await self._keep(ready, None)

    async def copy(self, ready: Ready, go_on: GoOn) -> Copied:
        """As `dump`, for boxes of other ids. `go_on` is awaited as soon as the box need not stand still any more."""
        return await self._keep(ready, go_on)

    def share(self, source: str, name: str) -> tuple[int, tuple[str, ...]]:
        """Keep what `dump` kept under another name too, for boxes of other ids. Blocking.

        Returns the size of the memory, and the executions that ran. Raises NoSuchSnapshot, SnapshotExists,
        MemoryNotKept, HostExhausted, HostUnfit.
        """
        host = self._host
        host.snapshots.copy(source, name)
        try:
            return host.memories.share(source, name)
        except FileNotFoundError as error:
            message = f"cannot keep memory of snapshot {source}: it has none"
            raise MemoryNotKept(message) from error
        except OSError as error:
            message = f"cannot keep memory of snapshot {source}: {error.strerror}"
            raise HostExhausted(message) from error
        finally:
            if host.memories.read(name) is None:
                host.memories.drop(host.memories.partial(name))
                host.pool.delete_snapshot(name)

    async def _keep(self, ready: Ready, go_on: GoOn | None) -> Copied:
        host, found, name = self._host, ready.living.record, ready.name
        partial, copied = host.memories.partial(name), False
        try:
            began, ties = await self._stand(ready)
            # Disk first: a disk without a memory is a snapshot, and a memory without its disk would be nothing.
            await settled(asyncio.to_thread(host.pool.snapshot, found.handle, name))
            copied = True
            still_ms = (host.clock.monotonic() - began) * 1e3
            if go_on is not None:
                await go_on()
            meta = self._meta(found, ties, shared=go_on is not None)
            await settled(asyncio.to_thread(self._rewrite, partial, ties, meta))
            memory = await settled(asyncio.to_thread(self._commit, found, name, partial, meta))
        except BaseException:
            await settled(asyncio.to_thread(host.snapshots.thaw, found.handle))
            if copied:
                await settled(asyncio.to_thread(host.pool.delete_snapshot, name))
            await settled(asyncio.to_thread(host.memories.drop, partial))
            raise
        return Copied(ready.disk, still_ms, found.layers, memory, meta.executions)

    async def _stand(self, ready: Ready) -> tuple[float, memories.Ties]:
        """Dump the box, which stands still since the time that is returned."""
        host, handle = self._host, ready.living.record.handle
        tries = TRIES
        while True:
            partial = await asyncio.to_thread(host.memories.begin, ready.name)
            began = host.clock.monotonic()
            await settled(asyncio.to_thread(host.snapshots.hold, handle))
            try:
                return began, await self._dump(ready, partial)
            except MemoryNotKept as problem:
                # It was frozen before its guest, which may have few turns, had taken or left a connection.
                tries -= 1
                if not tries or not _IN_FLIGHT.search(problem.message):
                    raise
            await settled(asyncio.to_thread(host.snapshots.thaw, handle))
            await host.clock.sleep(PAUSE_S)

    async def _dump(self, ready: Ready, partial: Path) -> memories.Ties:
        host, found = self._host, ready.living.record
        try:
            ties = await asyncio.to_thread(memories.ties, found.pid, host.places.spool / found.id)
            owner = await asyncio.to_thread(_owner, found.pid)
            os.chown(partial, owner, owner)
            os.chmod(partial, 0o700)
        except (memories.Undumpable, OSError) as problem:
            raise _not_kept(found.id, str(problem)) from problem
        group = host.places.group(host.layout, found.handle)
        dump = criu.Dump(found.pid, partial, group.freezer, ties.externals(), owner)
        answer = await self._caller.ask(
            "dump",
            ready.limit_s,
            box=found.id,
            argv=criu.dump_argv(ready.program, dump),
            log=str(partial / "dump.log"),
            owner=owner,
            cache=str(self._caller.cache),
        )
        if not answer["ok"]:
            cause = criu.explain(answer["error"]) or answer["error"].strip() or f"criu ended with {answer['code']}"
            if answer.get("code", 0) < 0:
                # It was in the middle of making them tell about themselves.
                cause = "criu was killed: processes of the box may have ended with it"
            raise _not_kept(found.id, cause)
        return ties

    @staticmethod
    def _meta(found: record.Record, ties: memories.Ties, *, shared: bool) -> memories.Meta:
        devices = {memories.key_of(path): path for path in ties.mounted.devices.values()}
        files = {f"corral-spool-{number}": file for number, file in enumerate(ties.files.values())}
        return memories.Meta(found.id, ties.mounted.guest.removesuffix(_READABLE), devices, files, shared)

    def _rewrite(self, images: Path, ties: memories.Ties, meta: memories.Meta) -> None:
        names = dict(zip(ties.files, meta.files, strict=True))
        try:
            imagefiles.name_files(images, ties.socket, criu.LISTENER, names, config.GUEST_TARGET)
            imagefiles.close_to_tracing(images)
        except (OSError, ValueError) as problem:
            message = f"cannot keep memory: its images cannot be read: {problem}"
            raise MemoryNotKept(message) from problem

    def _commit(self, found: record.Record, name: str, partial: Path, meta: memories.Meta) -> int:
        try:
            if not meta.shared:
                # Its commands go on to write where their output ends: the disk must have all that is before it.
                for file, _ in meta.files.values():
                    wholefile.sync(self._host.places.spool / found.id / file)
            return self._host.memories.commit(partial, name, meta)
        except OSError as error:
            message = f"cannot keep memory of box {found.id}: {error.strerror}"
            raise HostExhausted(message) from error

    def _require_room(self, found: record.Record) -> int:
        """How much memory there is to keep, in bytes."""
        used = self._host.usage(found)
        needed = max(0, used.memory - used.cache)
        free = shutil.disk_usage(self._host.places.data).free - RESERVE
        if needed > free:
            raise _not_kept(found.id, f"it uses {needed >> 20} MiB, and the disk has {max(0, free) >> 20} MiB for it")
        return needed

    # ---------------------------------------------------------------- back

    async def restore(self, spec: BoxSpec, meta: memories.Meta) -> Living:
        """Make a box with the processes that `spec.origin` was kept with, see `kept`; its guest is parked.

        One that was kept of another box is not adopted by a later server before `Host.complete`.
        Raises MemoryNotKept, BoxExists, HostExhausted, HostUnfit. What is half-made is left to `Host.remove`.
        """
        host, name = self._host, spec.origin or ""
        try:
            program = await self._caller.program()
        except criu.NoCriu as problem:
            raise _not_restored(spec.id, f"{problem}; see corral doctor") from problem
        wish = await host.maker.reserve(host.places.box(spec.id), spec)
        await settled(asyncio.to_thread(host.maker.prepare_box, spec, wish.id_base))
        host.snapshots.mark(spec.id)
        images = await settled(asyncio.to_thread(host.memories.link, name, spec.id))
        try:
            try:
                if meta.shared:
                    await settled(asyncio.to_thread(self._part, spec, meta, images))
                request = await settled(asyncio.to_thread(self._restore_request, program, spec, wish, meta, images))
            except (OSError, ValueError) as problem:
                raise _not_restored(spec.id, str(problem)) from problem
            size = sum(path.stat().st_size for path in images.iterdir())
            answer = await self._caller.ask("restore", LIMIT_S + size / SLOWEST, **request)
        finally:
            await settled(asyncio.to_thread(host.memories.drop, images))
        if not answer["ok"]:
            raise _not_restored(spec.id, criu.explain(answer["error"]) or answer["error"].strip())
        return host.restored(spec, wish.index, answer["pid"], whole=not meta.shared)

    def kept(self, spec: BoxSpec) -> memories.Meta:
        """What is known of the memory that `spec` is to begin with. Raises MemoryNotKept."""
        meta = self._host.memories.read(spec.origin or "")
        if meta is None or (meta.box != spec.id and not meta.shared):
            raise _not_restored(spec.id, "none is kept of it")
        if spec.nested:
            # Its root may trace what is not made from an unreadable file, as its guest would not be.
            raise _not_restored(spec.id, "containers are possible in it")
        return meta

    def _part(self, spec: BoxSpec, meta: memories.Meta, images: Path) -> None:
        """Have nothing in common with the box that the memory is of: names, random numbers, files of output."""
        imagefiles.name_host(images, spec.hostname)
        try:
            randomness.renew()
        except OSError as problem:
            message = f"it would have the other box's random numbers: {problem.strerror}"
            raise ValueError(message) from problem
        output = sum(size for _, size in meta.files.values())
        if output > MOST_OUTPUT:
            message = f"its executions have written {output >> 20} MiB, of which it may take over {MOST_OUTPUT >> 20}"
            raise ValueError(message)
        ours, theirs = (self._host.places.spool / box_id for box_id in (spec.id, meta.box))
        shutil.rmtree(ours, ignore_errors=True)  # of an earlier try
        ours.mkdir(mode=0o700)
        for file, size in meta.files.values():
            copy_start(theirs / file, ours / _renamed(spec, meta, file), size)

    def _restore_request(
        self, program: criu.Criu, spec: BoxSpec, wish: SlotWish, meta: memories.Meta, images: Path
    ) -> dict[str, object]:
        host = self._host
        bundle = host.places.bundle(spec.id)
        imagefiles.shift_ids(images, wish.id_base)
        # The processes that are made read them, before they have any id of the box and after. The folder above all
        # images is root's alone.
        images.chmod(0o755)
        for path in images.iterdir():
            path.chmod(0o644)
        inside = host.places.stage.folder / "guest"
        inside.touch(mode=0o600)
        # The guest is bound by CRIU: it cannot copy a root that has a mount below which its namespace may not undo.
        plan = [step for step in host.maker.steps(spec, wish.id_base) if not isinstance(step, steps.BindFile)]
        groups = host.places.group(host.layout, spec.id).make(host.maker.resources(spec))
        hook = host.places.data / "bin" / "attach"
        with self._writing:
            restoring.write_hook(hook)
            guest = self._readable(meta.guest)
        plan.append(steps.BindFile(str(guest), str(inside)))
        spool = host.places.spool / spec.id
        files = {name: memories.FIRST_FD + number for number, name in enumerate(meta.files)}
        restore = criu.Restore(
            images=images,
            root=host.places.stage.root,
            pid_file=bundle / "pid",
            externals={memories.GUEST: str(inside), memories.GROUPS: str(host.places.stage.groups), **meta.externals},
            files={criu.LISTENER: 3, **files},
            hook=str(hook),
        )
        return {
            "box": spec.id,
            "steps": [steps.pack(step) for step in plan],
            "id_base": wish.id_base,
            "files": [
                (files[name], str(spool / _renamed(spec, meta, file)), size)
                for name, (file, size) in meta.files.items()
            ],
            "groups": [str(folder) for folder in groups],
            "groups_at": str(host.places.stage.groups) if host.layout.version == 2 else "",
            "wish": json.dumps(asdict(wish)),
            "socket": str(host.places.socket(spec.id)),
            "pid_file": str(restore.pid_file),
            "log": str(images / "restore.log"),
            "argv": criu.restore_argv(program, restore),
        }

    def _readable(self, guest: str) -> Path:
        """A copy of the guest's program that CRIU can map as the box's root. Whoever starts it is not process 1."""
        source = self._host.places.data / "bin" / guest
        target = source.with_name(f"{guest}{_READABLE}")
        if not target.exists():
            wholefile.write(target, source.read_bytes(), 0o755)
        return target


def _renamed(spec: BoxSpec, meta: memories.Meta, file: str) -> str:
    """What the file of an execution is called in the box. Raises ValueError when it has no name there."""
    execution, _, kind = file.rpartition(".")
    if not meta.shared:
        return file
    if execution not in spec.executions:
        message = f"execution {execution} has no id in it"
        raise ValueError(message)
    return f"{spec.executions[execution]}.{kind}"


def _owner(pid: int) -> int:
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return criu.needs_owner(fd)
    finally:
        os.close(fd)


def _not_kept(box_id: str, cause: str) -> RuntimeFailure:
    return MemoryNotKept(f"cannot keep memory of box {box_id}: {cause}")


def _not_restored(box_id: str, cause: str) -> RuntimeFailure:
    return MemoryNotKept(f"cannot bring back memory of box {box_id}: {cause}")
