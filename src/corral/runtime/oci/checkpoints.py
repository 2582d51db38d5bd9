"""Dumping a box to disk and making it again from there: memory and disk of one moment, by CRIU.

Owns the order of steps, so that a server that is killed at any of them leaves a box that runs, or a dump that is
whole. Must not talk to guests: the driver parks and wakes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.runtime.contract import GIB, MIB, BoxSpec, Copied, HostExhausted, MemoryNotKept, RuntimeFailure
from corral.runtime.network.namespace import SlotWish
from corral.runtime.oci import config, criu, imagefiles, memories, record, restoring, wire
from corral.runtime.oci.faults import settled
from corral.runtime.rootfs import steps

if TYPE_CHECKING:
    from corral.runtime.oci.host import Host, Living

#: For all of a dump, or of a restore: what it may take at least, and how much memory a slow disk takes in a second.
LIMIT_S: Final = 20.0
SLOWEST: Final = 32 * MIB
#: For CRIU to end once it was told to.
ABORT_LIMIT_S: Final = 10.0
#: Left free on the disk of the data folder by a dump.
RESERVE: Final = GIB
_READABLE: Final = "-open"


class Checkpoints:
    """Of one host's boxes."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._program: criu.Criu | None = None

    # ---------------------------------------------------------------- to disk

    async def dump(self, living: Living, name: str) -> Copied:
        """Keep memory and disk of a box whose guest is parked under `name`. It stands still when this returns.

        Raises MemoryNotKept, HostExhausted, HostUnfit: it goes on then, with a guest that is still parked.
        """
        host, found = self._host, living.record
        program = await self._criu(found.id)
        size = await asyncio.to_thread(self._require_room, found)
        await settled(asyncio.to_thread(host.pool.flush, found.handle, name))
        partial = await asyncio.to_thread(host.memories.begin, name)
        began = host.clock.monotonic()
        try:
            await settled(asyncio.to_thread(host.snapshots.hold, found.handle))
            try:
                meta = await self._dump(program, living, partial, LIMIT_S + size / SLOWEST)
                copied = await settled(asyncio.to_thread(self._commit, found, name, partial, meta))
            except BaseException:
                await settled(asyncio.to_thread(host.snapshots.let_go, found.handle))
                raise
        except BaseException:
            await settled(asyncio.to_thread(host.memories.drop, partial))
            raise
        return replace(copied, still_ms=(host.clock.monotonic() - began) * 1e3)

    async def _dump(self, program: criu.Criu, living: Living, partial: Path, limit_s: float) -> memories.Meta:
        host, found = self._host, living.record
        try:
            ties = await asyncio.to_thread(memories.ties, found.pid, host.places.spool / found.id)
            owner = await asyncio.to_thread(_owner, found.pid)
            os.chown(partial, owner, owner)
            os.chmod(partial, 0o700)
        except (memories.Undumpable, OSError) as problem:
            raise _not_kept(found.id, str(problem)) from problem
        group = host.places.group(host.layout, found.handle)
        dump = criu.Dump(found.pid, partial, group.freezer, ties.externals(), owner)
        answer = await self._ask(
            "dump",
            limit_s,
            box=found.id,
            argv=criu.dump_argv(program, dump),
            log=str(partial / "dump.log"),
            owner=owner,
            cache=str(self._cache),
        )
        if not answer["ok"]:
            cause = criu.explain(answer["error"]) or answer["error"].strip() or f"criu ended with {answer['code']}"
            if answer.get("code", 0) < 0:
                # It was in the middle of making them tell about themselves.
                cause = "criu was killed: processes of the box may have ended with it"
            raise _not_kept(found.id, cause)
        names = {key: f"corral-spool-{number}" for number, key in enumerate(ties.files)}
        await settled(asyncio.to_thread(self._rewrite, partial, ties, names))
        devices = {path.replace("/", "-"): path for path in ties.devices.values()}
        files = {name: ties.files[key] for key, name in names.items()}
        return memories.Meta(found.id, ties.guest.removesuffix(_READABLE), devices, files)

    def _rewrite(self, images: Path, ties: memories.Ties, names: dict[str, str]) -> None:
        try:
            imagefiles.name_files(images, ties.socket, criu.LISTENER, names, config.GUEST_TARGET)
            imagefiles.close_to_tracing(images)
        except (OSError, ValueError) as problem:
            message = f"cannot keep memory: its images cannot be read: {problem}"
            raise MemoryNotKept(message) from problem

    def _commit(self, found: record.Record, name: str, partial: Path, meta: memories.Meta) -> Copied:
        """Disk first: a disk without a memory is a snapshot, and a memory without its disk would be nothing."""
        host = self._host
        size = host.pool.used(found.handle)
        host.pool.snapshot(found.handle, name)
        try:
            memory = host.memories.commit(partial, name, meta)
        except OSError as error:
            host.pool.delete_snapshot(name)
            message = f"cannot keep memory of box {found.id}: {error.strerror}"
            raise HostExhausted(message) from error
        return Copied(size, 0.0, found.layers, memory)

    def _require_room(self, found: record.Record) -> int:
        """How much memory there is to keep, in bytes."""
        used = self._host.usage(found)
        needed = max(0, used.memory - used.cache)
        free = shutil.disk_usage(self._host.places.data).free - RESERVE
        if needed > free:
            raise _not_kept(found.id, f"it uses {needed >> 20} MiB, and the disk has {max(0, free) >> 20} MiB for it")
        return needed

    # ---------------------------------------------------------------- back

    async def restore(self, spec: BoxSpec) -> Living:
        """Make a box with the processes that `spec.origin` was kept with; its guest is parked.

        Raises MemoryNotKept, BoxExists, HostExhausted, HostUnfit. What is half-made is left to `Host.remove`.
        """
        host, name = self._host, spec.origin or ""
        meta = host.memories.read(name)
        if meta is None or meta.box != spec.id:
            raise _not_restored(spec.id, "none is kept of it")
        program = await self._criu(spec.id)
        wish = await host.reserve(spec)
        await settled(asyncio.to_thread(host.prepare_box, spec, wish.id_base))
        host.snapshots.mark(spec.id)
        try:
            request = await settled(asyncio.to_thread(self._restore_request, program, spec, wish, meta))
        except (OSError, ValueError) as problem:
            raise _not_restored(spec.id, str(problem)) from problem
        size = sum(path.stat().st_size for path in host.memories.path(name).iterdir())
        answer = await self._ask("restore", LIMIT_S + size / SLOWEST, **request)
        if not answer["ok"]:
            raise _not_restored(spec.id, criu.explain(answer["error"]) or answer["error"].strip())
        return host.restored(spec, wish.index, answer["pid"])

    def _restore_request(
        self, program: criu.Criu, spec: BoxSpec, wish: SlotWish, meta: memories.Meta
    ) -> dict[str, object]:
        host = self._host
        images, bundle = host.memories.path(spec.origin or ""), host.places.bundle(spec.id)
        imagefiles.shift_ids(images, wish.id_base)
        # The processes that are made read them, before they have any id of the box and after. The folder above all
        # images is root's alone.
        images.chmod(0o755)
        for path in images.iterdir():
            path.chmod(0o644)
        inside = host.places.stage.folder / "guest"
        inside.touch(mode=0o600)
        # The guest is bound by CRIU: it cannot copy a root that has a mount below which its namespace may not undo.
        plan = [step for step in host.steps(spec, wish.id_base) if not isinstance(step, steps.BindFile)]
        plan.append(steps.BindFile(str(self._readable(meta.guest)), str(inside)))
        groups = host.places.group(host.layout, spec.id).make(host.resources(spec))
        hook = host.places.data / "bin" / "attach"
        restoring.write_hook(hook)
        spool = host.places.spool / spec.id
        files = {name: memories.FIRST_FD + number for number, name in enumerate(meta.files)}
        restore = criu.Restore(
            images=images,
            root=host.places.stage.root,
            pid_file=bundle / "pid",
            externals={"guest": str(inside), **meta.externals},
            files={criu.LISTENER: 3, **files},
            hook=str(hook),
        )
        return {
            "box": spec.id,
            "steps": [steps.pack(step) for step in plan],
            "id_base": wish.id_base,
            "files": [(files[name], str(spool / file), size) for name, (file, size) in meta.files.items()],
            "groups": [str(folder) for folder in groups],
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
            partial = source.with_name(f"{guest}.new-{os.getpid()}")
            shutil.copyfile(source, partial)
            partial.chmod(0o755)
            partial.rename(target)
        return target

    # ---------------------------------------------------------------- how

    @property
    def _cache(self) -> Path:
        return self._host.places.memory / "criu"

    async def _criu(self, box_id: str) -> criu.Criu:
        if self._program is None:
            try:
                self._program = await settled(asyncio.to_thread(self._find))
            except criu.NoCriu as problem:
                raise _not_kept(box_id, f"{problem}; see corral doctor") from problem
        return self._program

    def _find(self) -> criu.Criu:
        found = criu.find(self._folder)
        criu.prepare(found, self._cache)
        return found

    async def _ask(self, op: str, limit_s: float, **fields: object) -> wire.Message:
        """Ask the launcher, and stay until CRIU has ended, even when cancelled: it is inside the box's processes."""
        asked = asyncio.ensure_future(self._host.launcher.request(op, limit_s + 2 * ABORT_LIMIT_S, **fields))
        try:
            done, _ = await asyncio.wait({asked}, timeout=limit_s)
            if not done:
                self._host.launcher.tell("abort", box=fields["box"])
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            await asyncio.wait({asked}, timeout=ABORT_LIMIT_S)
            raise
        except TimeoutError as error:
            message = f"cannot {op} box {fields['box']}: criu did not end within {limit_s:.0f} s"
            raise MemoryNotKept(message) from error


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
