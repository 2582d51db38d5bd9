"""Disks as btrfs subvolumes with a limit.

Owns `<data>/pool.img` and `<data>/pool`, or `<data>/disks` where that is on btrfs itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.runtime.contract import MIB, HostUnfit, SnapshotForm
from corral.runtime.linux import btrfs, mounts, syscalls
from corral.runtime.rootfs.filesystem import default_size, hold, make_image, on_btrfs, room
from corral.runtime.rootfs.pool import PARTIAL, SNAPSHOTS, DiskPool
from corral.runtime.rootfs.steps import MakeSubvolume, Step

#: What a copy of a full disk needs until its box runs.
SLACK: Final = 16 * MIB
#: No id begins with a dot.
RECEIVING: Final = ".receiving"


@dataclass(slots=True)
class BtrfsPool(DiskPool):
    """Subvolumes: made, bounded, deleted in constant time. On a sparse loop file unless the data folder is btrfs."""

    data: Path
    size: int | None = None
    native: bool = field(init=False)
    simple_quotas: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.native = on_btrfs(self.data)

    @property
    def home(self) -> Path:
        """The directory that holds the subvolumes."""
        return self.data / ("disks" if self.native else "pool")

    @property
    def bounded(self) -> bool:
        """Whether all disks together are bounded too. With older quotas a copy would have to be counted anew."""
        return self.simple_quotas and not self.native

    def open(self) -> None:
        """Mount the pool (making it the first time) and switch quotas on."""
        home = self.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.native and mounts.mounted_at(home.resolve()) is None:
            self._mount(home)
        # Box root needs no way in from the host side: its disk is reached through its own mounts.
        home.chmod(0o700)
        self.snapshots.mkdir(mode=0o700, exist_ok=True)
        for partial in self.snapshots.glob(f"{PARTIAL}*"):
            self.delete_snapshot(partial.name)
        for folder in (home / RECEIVING).glob("*"):
            self._drop_received(folder)
        with _opened(home) as fd:
            self.simple_quotas = btrfs.enable_quotas(fd)
            btrfs.hide(fd)
            if self.bounded:
                btrfs.limit_all(fd, room(home))
        if not self.native:
            self._sweep(home)

    @staticmethod
    def _sweep(home: Path) -> None:
        """Drop the quota groups of disks that are gone. Kernels before 6.12 keep those that were busy at `delete`."""
        used = set()
        for path in (*home.glob("[!.]*"), *(home / SNAPSHOTS).iterdir()):
            with _opened(path) as fd:
                used.add(btrfs.subvolume_id(fd))
        with _opened(home) as fd:
            for group in btrfs.quota_groups(fd) - used:
                if group >= btrfs.FIRST_FREE_OBJECTID:
                    btrfs.drop_quota_group(fd, group)

    def _mount(self, home: Path) -> None:
        image = self.data / "pool.img"
        if not image.exists():
            make_image(
                image, self.size or default_size(self.data), ["mkfs.btrfs", "-q", "-K", "-d", "single", "-m", "single"]
            )
        device, held = hold(image)
        # Without the ratio trees get a chunk only when they need one, and then there may be none left.
        options = "discard=async,metadata_ratio=4"
        # Files in it belong to the ids that boxes have inside, root among them: on the host nothing here is a program.
        flags = syscalls.MS_NOATIME | syscalls.MS_NODEV | syscalls.MS_NOSUID | syscalls.MS_NOEXEC
        try:
            syscalls.mount(device, str(home), "btrfs", flags, options)
        except OSError as error:
            message = f"cannot mount disk pool {image}: {error.strerror}"
            raise HostUnfit(
                message, remedy=f"if no devbox is needed any more, remove {image}; it is made anew"
            ) from error
        finally:
            os.close(held)

    def close(self) -> None:
        """Unmount; the loop device frees itself. A pool that somebody uses stays, for the next `open`."""
        home = self.data / "pool"
        if mounts.mounted_at(home.resolve()) is None:
            return
        try:
            syscalls.umount2(str(home), syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise

    def prepare(self, name: str, size: int, origin: str | None) -> None:
        """Nothing: a subvolume is made in one call."""

    def steps(self, name: str, size: int, origin: str | None) -> list[Step]:
        """One subvolume."""
        if origin is None:
            return [MakeSubvolume(str(self.home), name, size, together=self.bounded)]
        return [
            MakeSubvolume(
                str(self.home), name, size + SLACK, origin=str(self.snapshots / origin), together=self.bounded
            )
        ]

    def folder(self, name: str) -> Path:
        """The subvolume."""
        return self.home / name

    def resize(self, name: str, size: int) -> bool:
        """Move the quota's limit."""
        with _opened(self.home / name) as fd:
            btrfs.limit_subvolume(fd, size)
        return True

    def used(self, name: str) -> int:
        """From the quota group, in constant time."""
        with _opened(self.home / name) as fd:
            return btrfs.subvolume_usage(fd)

    def disks(self) -> list[str]:
        """The subvolumes that do not begin with a dot."""
        return [path.name for path in self.home.glob("[!.]*")]

    def delete(self, name: str) -> None:
        """Delete the subvolume."""
        _delete_subvolume(self.home, name)

    @property
    def snapshots(self) -> Path:
        """Beside the disks, under a name that no box can have."""
        return self.home / SNAPSHOTS

    def flush(self, name: str, snapshot: str) -> None:
        """Make a first copy and drop it: the kernel writes out the one subvolume, not those of other boxes too."""
        first = f"{PARTIAL}{snapshot}"
        self._copy(name, first)
        _delete_subvolume(self.snapshots, first)

    def snapshot(self, name: str, snapshot: str) -> None:
        """Copy the subvolume, read-only."""
        self._copy(name, snapshot)

    def copy_snapshot(self, source: str, snapshot: str) -> None:
        """Copy its subvolume."""
        self._copy(f"{SNAPSHOTS}/{source}", snapshot)

    def _copy(self, name: str, snapshot: str) -> None:
        with _opened(self.home / name) as source, _opened(self.snapshots) as parent:
            btrfs.snapshot_subvolume(parent, snapshot, source, read_only=True)

    @property
    def form(self) -> SnapshotForm:
        """The kernel's own."""
        return SnapshotForm.BTRFS

    def sender(self, snapshot: str, parent: str | None) -> list[str]:
        """Of the subvolume."""
        beside = [] if parent is None else ["-p", str(self.snapshots / parent)]
        return ["btrfs", "send", "--quiet", *beside, str(self.snapshots / snapshot)]

    def begin_receiving(self, snapshot: str) -> list[str]:
        """Into a folder of its own, which the program cannot leave."""
        folder = self.home / RECEIVING / snapshot
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ["btrfs", "receive", "--quiet", "--chroot", "--max-errors", "1", str(folder)]

    def end_receiving(self, snapshot: str, *, whole: bool) -> None:
        """A read-only subvolume cannot be moved to another folder: copy it, and drop what was received."""
        folder = self.home / RECEIVING / snapshot
        try:
            if whole:
                newest = max(folder.iterdir(), key=_generation, default=None)
                if newest is None:
                    raise FileNotFoundError(errno.ENOENT, "nothing was received", str(folder))
                self._copy(f"{RECEIVING}/{snapshot}/{newest.name}", snapshot)
        finally:
            self._drop_received(folder)

    @staticmethod
    def _drop_received(folder: Path) -> None:
        for received in folder.glob("*"):
            _delete_subvolume(folder, received.name)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()

    def delete_snapshot(self, snapshot: str) -> None:
        """Delete the subvolume."""
        _delete_subvolume(self.snapshots, snapshot)


def _generation(subvolume: Path) -> int:
    """Grows with each subvolume that is made."""
    with _opened(subvolume) as fd:
        return btrfs.subvolume_id(fd)


def _delete_subvolume(folder: Path, name: str) -> None:
    with _opened(folder) as parent:
        try:
            with _opened(folder / name) as fd:
                subvolume = btrfs.subvolume_id(fd)
            btrfs.delete_subvolume(parent, name)
        except FileNotFoundError:
            return
        btrfs.drop_quota_group(parent, subvolume)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
