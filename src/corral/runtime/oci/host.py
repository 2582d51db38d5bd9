"""The host side of the driver: makes what boxes need once, makes and removes boxes, and knows which of them live.

Owns everything below the data folder but the spool, and the pidfds of living boxes. Must not talk to a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import ipaddress
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from corral.core.clock import Clock
from corral.runtime.cgroup.group import Group, open_parent
from corral.runtime.cgroup.layout import read_layout
from corral.runtime.contract import (
    STORES,
    Box,
    BoxGone,
    BoxSpec,
    BoxStatus,
    DeathReason,
    HostUnfit,
    Usage,
)
from corral.runtime.linux import mounts, uts
from corral.runtime.network import blocks as network_blocks
from corral.runtime.network import firewall
from corral.runtime.network.namespace import SlotWish
from corral.runtime.oci import config, hostfiles, memory, probe, record, removal, slots, wire
from corral.runtime.oci.checkpoints import Checkpoints
from corral.runtime.oci.faults import ended_at_once, exists, refused, settled
from corral.runtime.oci.launching import LauncherClient
from corral.runtime.oci.memories import Memories
from corral.runtime.oci.removal import Removal
from corral.runtime.oci.settings import OciSettings, Places
from corral.runtime.oci.snapshots import Snapshots
from corral.runtime.rootfs import plan, pool, steps
from corral.runtime.spool import ID_PATTERN

LOCK_LIMIT_S: Final = 20.0
ABORT_LIMIT_S: Final = 10.0


@dataclass(slots=True)
class Living:
    """A box whose process 1 runs. `process` is its pidfd."""

    record: record.Record
    process: int


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
        data = settings.data.resolve()
        self.settings = replace(settings, data=data)
        self.places = Places(data, settings.run)
        self.clock = clock
        self.living: dict[str, Living] = {}
        #: Boxes that are nobody's yet, by handle.
        self.prepared: dict[str, Living] = {}
        self.layout = read_layout(mounts.current())
        self.pool = choose_pool(self.settings, self.places.stage)
        self._removal = Removal(self.settings, self.places, self.layout, self.pool)
        self.snapshots = Snapshots(self.places, self.layout, self.pool, clock)
        #: Boxes that a killed server left standing still, or with a guest that is parked, by handle.
        self.stood: set[str] = set()
        self.memories = Memories(self.places.data / "memory")
        self.checkpoints = Checkpoints(self, settings.criu)
        self._died = died
        self._died_early = died_early
        self._plan = network_blocks.Plan(ipaddress.IPv4Network(settings.network))
        self._blocks = network_blocks.Blocks(settings.run, data)
        self._lock = -1
        keep = (data, *settings.layer_roots, settings.guest, settings.run)
        # The launcher holds the lock too: nobody else may use the data folder until it has ended.
        self.launcher = LauncherClient(keep, lambda: (self._lock,), self._launcher_ended)
        self._stock = slots.SlotStock(self.launcher, self._blocks, self._plan, settings.slots_ready, clock, self._wall)

    # ---------------------------------------------------------------- the host as a whole

    async def start(self) -> None:
        """Check the host, make what all boxes share, and adopt those that live. Raises HostUnfit."""
        probe.require(await asyncio.to_thread(probe.facts, self.settings))
        for folder in (self.places.boxes, self.places.prepared):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings.data.chmod(0o700)
        try:
            await self._take_lock()
            known = await settled(asyncio.to_thread(self._prepare))
            await self.launcher.start()
            self._adopt(known)
            if not self._blocks.held:
                await settled(asyncio.to_thread(self._blocks.grow))
            await self._wall()
            self._stock.start()
        except BaseException:
            await self._let_go()
            raise

    async def close(self) -> None:
        """Let go of the boxes, which go on. With no box on the host, also of all that the host lent. Idempotent."""
        if self._lock < 0:
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
                await settled(asyncio.to_thread(self._give_back))
        finally:
            self._unlock()

    def _unlock(self) -> None:
        held, self._lock = self._lock, -1
        if held >= 0:
            os.close(held)

    def _prepare(self) -> list[record.Record]:
        self.settings.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        memory.open_folder(self.places.memory)
        self.places.stage.make()
        for folder in (self.places.state, self.places.bundles, self.places.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pool.open()
        self._clear_prepared()
        self.stood = self.snapshots.open()
        self.memories.open()
        open_parent(self.layout, self._group("x").parent)
        firewall.enable_forwarding()
        found = hostfiles.read(Path("/"), os.environ)
        self._layer = hostfiles.write_layer(found, self.places.data / "hostlayer")
        self._host = found
        self._guest = install_guest(self.settings.guest, self.places.data / "bin")
        self._seccomp = {nested: config.seccomp_profile(nested=nested) for nested in (False, True)}
        known = [kept for name in self.names() if (kept := record.read(self.places.box(name))) is not None]
        self._blocks.open({kept.slot for kept in known})
        return known

    def _give_back(self) -> None:
        self.pool.close()
        firewall.remove(self.places.table)
        firewall.remove_gateways([self._plan.gateway(block) for block in self._blocks.held])
        self._blocks.release()
        memory.close_folder(self.places.memory)
        shutil.rmtree(self.places.memory, ignore_errors=True)
        for folder in {path.parent for path in self._group("x").folders}:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

    async def _take_lock(self) -> None:
        """A server that was killed leaves its launcher for a moment, with the lock: wait for it."""
        self._lock = os.open(self.places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = self.clock.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if self.clock.monotonic() > deadline:
                    message = f"cannot use data folder {self.settings.data}: another server uses it"
                    raise HostUnfit(
                        message, remedy="stop the other server, or set CORRAL_DATA to another folder"
                    ) from error
                await self.clock.sleep(0.05)
            else:
                return

    async def _wall(self) -> None:
        """Install the packet filter for the blocks that are held now."""
        held = list(self._blocks.held)
        wall = firewall.Wall(
            table=self.places.table,
            subnets=[self._plan.subnet(block) for block in held],
            gateways=[self._plan.gateway(block) for block in held],
            resolvers=self._host.resolvers,
            services=self.settings.host_services,
        )

        def install() -> None:
            firewall.remove_orphans({Places(owner, self.settings.run).table for owner in self._blocks.owners()})
            firewall.apply(wall)
            firewall.add_gateways(wall.gateways)
            if firewall.older_filter_drops():
                firewall.pass_older_filters()

        await asyncio.to_thread(install)

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
        living = await self._make(self.places.box(spec.id), spec)
        self._watch(self.living, living)
        return living

    async def make_ahead(self, spec: BoxSpec) -> Living:
        """As `make`, a box that is nobody's yet. `spec.id` is its handle. What is half-made is left to `discard`."""
        living = await self._make(self.places.prepared / spec.id, spec)
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
            self._group(handle).limit(self.resources(spec))
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

    async def _make(self, folder: Path, spec: BoxSpec) -> Living:
        slot = await self._stock.take(nested=spec.nested)
        try:
            await settled(asyncio.to_thread(self._write_first, folder, spec, slot.wish.index))
        except BaseException:
            kept = record.read(folder)
            if kept is None or kept.slot != slot.wish.index:
                self._stock.give_back(slot.wish.index)
            raise
        await settled(asyncio.to_thread(self.prepare_box, spec, slot.wish.id_base))
        answer = await self._launch(spec, slot)
        if spec.nested and self.layout.version == 2:
            self._delegate(spec, slot.wish.id_base)
        try:
            found = record.Record.of(spec, slot.wish.index).living(answer["pid"])
        except ProcessLookupError:
            raise ended_at_once(spec.id) from None
        if Path(self.settings.oci_runtime).name in removal.PLAIN_RUNTIMES:
            (self.places.bundle(spec.id) / "config.json").unlink()  # read once: 40 KiB of memory for each box
        process = found.open_process()
        if process is None:
            raise ended_at_once(spec.id)
        return Living(found, process)

    async def reserve(self, spec: BoxSpec) -> SlotWish:
        """The slot of a box whose namespaces are not made ahead, and the first record of it.

        Raises BoxExists, HostExhausted, HostUnfit.
        """
        wish = await self._stock.reserve()
        folder = self.places.box(spec.id)
        try:
            await settled(asyncio.to_thread(self._write_first, folder, spec, wish.index))
        except BaseException:
            kept = record.read(folder)
            if kept is None or kept.slot != wish.index:
                self._stock.give_back(wish.index)
            raise
        return wish

    def restored(self, spec: BoxSpec, slot: int, pid: int) -> Living:
        """Take a box that was made again from a dump for one that lives. Raises HostUnfit."""
        try:
            found = replace(record.Record.of(spec, slot).living(pid), restored=True)
        except ProcessLookupError:
            raise ended_at_once(spec.id) from None
        record.write(self.places.box(spec.id), found)
        process = found.open_process()
        if process is None:
            raise ended_at_once(spec.id)
        living = Living(found, process)
        self._watch(self.living, living)
        return living

    @staticmethod
    def _write_first(folder: Path, spec: BoxSpec, slot: int) -> None:
        """The record, before anything else of the box: whatever fails from here on can be found and removed."""
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError as error:
            raise exists(spec.id) from error
        try:
            record.write(folder, record.Record.of(spec, slot))
        except OSError as error:
            shutil.rmtree(folder)
            raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error

    def prepare_box(self, spec: BoxSpec, owner: int) -> None:
        if spec.nested and self.layout.version == 1:
            self._delegate(spec, owner)
        try:
            self.places.bundle(spec.id).mkdir(mode=0o700, exist_ok=True)
            if spec.origin is not None:
                self.snapshots.require(spec.origin)
            self.pool.prepare(spec.id, spec.limits.disk, spec.origin)
        except OSError as error:
            raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error

    def _delegate(self, spec: BoxSpec, owner: int) -> None:
        if self.layout.version == 1 and self.layout.second is None:
            message = f"cannot create nested box {spec.id}: version 2 of control groups is not mounted"
            raise HostUnfit(message, remedy="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, and restart the server")
        try:
            self._group(spec.id).delegate(owner)
        except OSError as error:
            raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error

    async def _launch(self, spec: BoxSpec, slot: slots.ReadySlot) -> wire.Message:
        folder = self.places.bundle(spec.id)
        log, pid_file = folder / "launch.log", folder / "pid"
        root = self.places.stage.root
        place = config.Place(
            root=root,
            user_namespace=slot.user_path,
            network_namespace=slot.net_path,
            id_base=slot.wish.id_base,
            cgroup=self._group(spec.id).path,
            cgroup_version=self.layout.version,
            swap_limit=self.layout.swap_limit,
        )
        boxed = replace(spec, env={**self._host.env, **spec.env})
        answer = await self._request_launch(
            box=spec.id,
            index=slot.wish.index,
            steps=[steps.pack(step) for step in self.steps(spec, slot.wish.id_base)],
            write={str(folder / "config.json"): json.dumps(config.bundle(boxed, place, self._seccomp[spec.nested]))},
            socket=str(self.places.socket(spec.id)),
            pid_file=str(pid_file),
            log=str(log),
            nested=self._nested(spec),
            argv=[
                self.settings.oci_runtime,
                "--root",
                str(self.places.state),
                "--log",
                str(log),
                "run",
                "--detach",
                "--preserve-fds",
                "1",
                "--pid-file",
                str(pid_file),
                "--bundle",
                str(folder),
                spec.id,
            ],
        )
        if not answer["ok"]:
            raise refused(f"create box {spec.id}", answer["errno"], answer["error"])
        return answer

    def _nested(self, spec: BoxSpec) -> Mapping[str, Any] | None:
        """What the launcher gives a nested box (`corral.runtime.oci.delegation`)."""
        if not spec.nested:
            return None
        second = self.layout.second if self.layout.version == 1 else None
        return {
            "group": None if second is None else f"{second}{self._group(spec.id).path}",
            "oom_score": config.OOM_SCORE,
        }

    def steps(self, spec: BoxSpec, owner: int) -> list[steps.Step]:
        """What the launcher's child does before the OCI runtime. `owner` is the host id of the box's root."""
        # On a disk that was a box's, a path may lead anywhere: its guest writes these.
        files = {"etc/hostname": f"{spec.hostname}\n", "etc/hosts": hostfiles.hosts(spec.hostname)}
        layers = (*spec.layers, self._layer)
        disk = self.pool.folder(spec.id)
        # crun refuses a host that has both versions, and makes a folder for the box on the host's own tmpfs below the
        # mount of v2 where that is merely unmounted.
        second = self.layout.second
        return [
            *([steps.Cover(str(second))] if second is not None else []),
            *self.pool.steps(spec.id, spec.limits.disk, spec.origin),
            *plan.root_plan(
                self.places.stage,
                layers,
                disk,
                owner=owner,
                files=None if spec.origin is not None else files,
                binds={config.GUEST_TARGET: self._guest},
                stores=STORES if spec.nested else (),
            ),
        ]

    async def _request_launch(self, box: str, **fields: object) -> wire.Message:
        """Ask for a launch and stay until it has ended, even when cancelled: `remove` must not race with it."""
        limit = self.settings.launch_limit_s
        asked = asyncio.ensure_future(self.launcher.request("launch", limit + ABORT_LIMIT_S, box=box, **fields))
        try:
            done, _ = await asyncio.wait({asked}, timeout=limit)
            if not done:
                self.launcher.tell("abort", box=box)
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            self.launcher.tell("abort", box=box)
            await asyncio.wait({asked}, timeout=ABORT_LIMIT_S)
            raise
        except TimeoutError as error:
            message = f"cannot create box {box}: the OCI runtime did not end within {limit:.0f} s"
            raise HostUnfit(message, remedy="look at the load of the host") from error

    def abort(self, box_id: str) -> None:
        """End the launch of a box, if one is in progress; `make` then raises."""
        self.launcher.tell("abort", box=box_id)

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

    def resources(self, spec: BoxSpec) -> Mapping[str, Any]:
        layout = self.layout
        return config.resources_of(spec.limits, swap_limit=layout.swap_limit, socket_limit=layout.version == 1)

    def _group(self, handle: str) -> Group:
        return self.places.group(self.layout, handle)

    def usage(self, found: record.Record) -> Usage:
        """What a box uses now. Raises BoxGone."""
        try:
            counted = self._group(found.handle).counters()
            disk = self.pool.used(found.handle)
        except OSError as error:
            # ENODEV: the group was removed after its file was opened.
            if error.errno not in {errno.ENOENT, errno.ENODEV}:
                raise
            message = f"cannot measure box {found.id}: it is gone"
            raise BoxGone(message) from error
        return Usage(
            cpu_us=counted.cpu_us,
            memory=counted.memory,
            cache=counted.cache,
            memory_peak=counted.memory_peak,
            disk=disk,
            pids=counted.pids,
            oom_kills=counted.oom_kills,
            limits=found.limits,
        )

    def usages(self, found: Sequence[record.Record]) -> dict[str, Usage]:
        """`usage` of each, less those that are gone."""
        used = {}
        for one in found:
            with contextlib.suppress(BoxGone):
                used[one.id] = self.usage(one)
        return used

    def saw(self, living: Living, oom_kills: int) -> None:
        """Remember kills for memory that the box has outlived: they do not explain its end."""
        if oom_kills > living.record.oom_kills and self.living.get(living.record.id) is living:
            living.record = replace(living.record, oom_kills=oom_kills)
            record.write(self.places.box(living.record.id), living.record)

    @property
    def env(self) -> Mapping[str, str]:
        """What every box gets of the server's environment: proxies and the like."""
        return self._host.env

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
        if found.boot != record.boot_id():
            return DeathReason.HOST_RESTARTED
        killed = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        if not killed:
            return DeathReason.EXITED
        with contextlib.suppress(FileNotFoundError):
            if self._group(found.handle).oom_kills() > found.oom_kills:
                return DeathReason.OUT_OF_MEMORY
        return DeathReason.KILLED


def choose_pool(settings: OciSettings, stage: plan.Stage) -> pool.DiskPool:
    """Btrfs where the host has it, else a filesystem in a file for each box. What is there already decides first."""
    disks = settings.data / "disks"
    kept = (*disks.glob("*.img"), *disks.glob(f"{pool.SNAPSHOTS}/*"))
    images = settings.disk == "auto" and any(path.is_file() for path in kept)
    if settings.disk == "btrfs" or (settings.disk == "auto" and probe.has_btrfs() and not images):
        return pool.BtrfsPool(settings.data, settings.pool_size)
    return pool.ImagePool(settings.data, stage.disk)


def install_guest(source: Path, folder: Path) -> Path:
    """A copy of the guest that no id of a box can read, named by its content: running boxes keep theirs."""
    try:
        content = source.read_bytes()
    except OSError as error:
        message = f"cannot read guest {source}: {error.strerror}"
        raise HostUnfit(message, remedy="build the guest, or set CORRAL_GUEST to its path") from error
    target = folder / f"corral-guest-{hashlib.sha256(content).hexdigest()[:16]}"
    if not target.exists():
        folder.mkdir(mode=0o711, exist_ok=True)
        partial = target.with_suffix(f".new-{os.getpid()}")
        partial.write_bytes(content)
        os.chown(partial, 0, 0)
        partial.chmod(0o711)
        partial.rename(target)
    return target
