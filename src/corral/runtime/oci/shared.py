"""What all boxes of a data folder share on this machine: made before the first box, given back after the last.

Owns the lock on the data folder, the disk pool, the packet filter and the blocks of addresses. Must not know a box.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import ipaddress
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from corral.core import wholefile
from corral.core.clock import Clock
from corral.runtime.cgroup.group import Group, open_parent
from corral.runtime.cgroup.layout import read_layout
from corral.runtime.contract import HostUnfit, Layer
from corral.runtime.linux import mounts
from corral.runtime.network import blocks, firewall
from corral.runtime.oci import config, hostfiles, memory, probe
from corral.runtime.oci.settings import OciSettings, Places
from corral.runtime.rootfs import plan
from corral.runtime.rootfs.btrfs_pool import BtrfsPool
from corral.runtime.rootfs.file_pool import ImagePool
from corral.runtime.rootfs.pool import SNAPSHOTS, DiskPool

LOCK_LIMIT_S: Final = 20.0


class Shared:
    """Of one data folder. `host`, `layer`, `guest` and `seccomp` are there once it was furnished.

    `layer` has what boxes get of the host's files, and lies below each. `seccomp` is by whether a box is nested.
    """

    host: hostfiles.HostFiles
    layer: Layer
    guest: Path
    seccomp: Mapping[bool, Mapping[str, Any]]

    def __init__(self, settings: OciSettings, clock: Clock) -> None:
        data = settings.data.resolve()
        self.settings = replace(settings, data=data)
        self.places = Places(data, settings.run)
        self.layout = read_layout(mounts.current())
        self.pool = choose_pool(self.settings, self.places.stage)
        self.plan = blocks.Plan(ipaddress.IPv4Network(settings.network))
        self.blocks = blocks.Blocks(settings.run, data)
        self._clock = clock
        #: A descriptor, -1 while it is not held.
        self.lock = -1

    def group(self, handle: str) -> Group:
        """The control group of a box."""
        return self.places.group(self.layout, handle)

    async def take_lock(self) -> None:
        """A server that was killed leaves its launcher for a moment, with the lock: wait for it."""
        self.lock = os.open(self.places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = self._clock.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if self._clock.monotonic() > deadline:
                    message = f"cannot use data folder {self.settings.data}: another server uses it"
                    raise HostUnfit(
                        message, remedy="stop the other server, or set CORRAL_DATA to another folder"
                    ) from error
                await self._clock.sleep(0.05)
            else:
                return

    def unlock(self) -> None:
        """Let go of the data folder. Idempotent."""
        held, self.lock = self.lock, -1
        if held >= 0:
            os.close(held)

    def open(self) -> None:
        """Make the folders, and the pool that boxes have their disks in."""
        self.settings.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        memory.open_folder(self.places.memory)
        self.places.stage.make()
        for folder in (self.places.state, self.places.bundles, self.places.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pool.open()

    def furnish(self) -> None:
        """Make what goes into boxes, and what is around them. Raises HostUnfit."""
        open_parent(self.layout, self.group("x").parent)
        firewall.enable_forwarding()
        self.host = hostfiles.read(Path("/"), os.environ)
        self.layer = hostfiles.write_layer(self.host, self.places.data / "hostlayer")
        self.guest = install_guest(self.settings.guest, self.places.data / "bin")
        self.seccomp = {nested: config.seccomp_profile(nested=nested) for nested in (False, True)}

    def give_back(self) -> None:
        """Remove what is not needed without a box."""
        self.pool.close()
        firewall.remove(self.places.table)
        firewall.remove_gateways([self.plan.gateway(block) for block in self.blocks.held])
        self.blocks.release()
        memory.close_folder(self.places.memory)
        shutil.rmtree(self.places.memory, ignore_errors=True)
        for folder in {path.parent for path in self.group("x").folders}:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

    async def wall(self) -> None:
        """Install the packet filter for the blocks that are held now."""
        held = list(self.blocks.held)
        wall = firewall.Wall(
            table=self.places.table,
            subnets=[self.plan.subnet(block) for block in held],
            gateways=[self.plan.gateway(block) for block in held],
            resolvers=self.host.resolvers,
            services=self.settings.host_services,
        )

        def install() -> None:
            firewall.remove_orphans({Places(owner, self.settings.run).table for owner in self.blocks.owners()})
            firewall.apply(wall)
            firewall.add_gateways(wall.gateways)
            if firewall.older_filter_drops():
                firewall.pass_older_filters()

        await asyncio.to_thread(install)


def choose_pool(settings: OciSettings, stage: plan.Stage) -> DiskPool:
    """Btrfs where the host has it, else a filesystem in a file for each box. What is there already decides first."""
    disks = settings.data / "disks"
    kept = (*disks.glob("*.img"), *disks.glob(f"{SNAPSHOTS}/*"))
    images = settings.disk == "auto" and any(path.is_file() for path in kept)
    if settings.disk == "btrfs" or (settings.disk == "auto" and probe.has_btrfs() and not images):
        return BtrfsPool(settings.data, settings.pool_size)
    return ImagePool(settings.data, stage.disk)


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
        wholefile.write(target, content, 0o711)
    return target
