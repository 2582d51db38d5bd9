"""The disk of every box: a btrfs subvolume with a limit, or a file with a filesystem where there is no btrfs.

Owns `<data>/pool.img`, `<data>/pool` and `<data>/disks`. Calls block for a few system calls on the local
disk (`open`: a mkfs, once); call them on a worker thread. Must not know what a box is but a name and a size.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.runtime.contract import GIB, MIB, HostExhausted, HostUnfit, SnapshotForm
from corral.runtime.linux import btrfs, loop, mounts, syscalls
from corral.runtime.rootfs.steps import MakeSubvolume, MountImage, Step

#: Left to the host when the pool's size is chosen. The pool is sparse: this bounds what it can grow to.
RESERVE: Final = 4 * GIB
SMALLEST: Final = 512 * MIB
MKFS_LIMIT_S: Final = 60
#: A chunk of data and one of trees, each a tenth of the filesystem and at most 1 GiB.
LAST_CHUNKS: Final = 2 * GIB + 512 * MIB
#: What a copy of a full disk needs until its box runs.
SLACK: Final = 16 * MIB
#: No id begins with a dot.
SNAPSHOTS: Final = ".snapshots"
RECEIVING: Final = ".receiving"
PARTIAL: Final = ".new-"


class DiskPool(ABC):
    """Where boxes' disks are."""

    @abstractmethod
    def open(self) -> None:
        """Make the pool ready. Idempotent. Raises HostUnfit."""

    @abstractmethod
    def close(self) -> None:
        """Give back the mount and the loop device. Only when no box lives and the launcher has ended."""

    @abstractmethod
    def steps(self, name: str, size: int, origin: str | None) -> list[Step]:
        """What the launcher does to make a disk of `size` bytes, before `folder(name)` can be used.

        It is empty, or a copy of the snapshot `origin`, which may be full: its limit is `resize`d when the box runs.
        """

    @abstractmethod
    def folder(self, name: str) -> Path:
        """Where the disk is while the launcher's child makes the root filesystem."""

    @abstractmethod
    def prepare(self, name: str, size: int, origin: str | None) -> None:
        """What the server itself does before `steps`."""

    @abstractmethod
    def resize(self, name: str, size: int) -> bool:
        """Bound a disk to `size` bytes from now on; False when it has the size that it was made with."""

    @abstractmethod
    def used(self, name: str) -> int:
        """Bytes that the disk holds now. Raises FileNotFoundError."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a disk and free its space; one that is not there is fine."""

    @property
    @abstractmethod
    def snapshots(self) -> Path:
        """The folder of snapshots, one entry each."""

    @abstractmethod
    def flush(self, name: str, snapshot: str) -> None:
        """Write out what the disk holds in memory, so that `snapshot` is quick."""

    @abstractmethod
    def snapshot(self, name: str, snapshot: str) -> None:
        """Keep a copy of the disk as it is; whole or not there at all. Raises FileNotFoundError, FileExistsError."""

    @abstractmethod
    def copy_snapshot(self, source: str, snapshot: str) -> None:
        """Keep a snapshot under another name too. Raises FileNotFoundError, FileExistsError."""

    @property
    @abstractmethod
    def form(self) -> SnapshotForm:
        """What a snapshot of it is as a stream."""

    @abstractmethod
    def sender(self, snapshot: str, parent: str | None) -> list[str]:
        """The program that writes a snapshot to its standard output, or the path of its file alone."""

    @abstractmethod
    def begin_receiving(self, snapshot: str) -> list[str]:
        """The program that takes such a stream, which can be run again for the next one, or the path of a new file."""

    @abstractmethod
    def end_receiving(self, snapshot: str, *, whole: bool) -> None:
        """Make the last that was received the snapshot if it is whole; drop everything else.

        Raises FileExistsError, FileNotFoundError when nothing was received.
        """

    @abstractmethod
    def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; one that is not there is fine. Disks that began as it are their own."""


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


@dataclass(slots=True)
class ImagePool(DiskPool):
    """A sparse ext4 file for each box, copied from a template of the same size."""

    data: Path
    stage: Path

    def open(self) -> None:
        """Make the folder."""
        self.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        for partial in self.snapshots.glob(f"{PARTIAL}*"):
            partial.unlink()

    def close(self) -> None:
        """Nothing is held: each disk is mounted in its box alone."""

    def prepare(self, name: str, size: int, origin: str | None) -> None:
        """Copy the empty filesystem, or the snapshot, holes as holes."""
        template = self.data / "disks" / f"template-{size}" if origin is None else self.snapshots / origin
        if origin is None and not template.exists():
            options = [
                "-q",
                "-F",
                "-m0",
                "-O",
                "^has_journal,uninit_bg",
                "-E",
                "lazy_itable_init=1,nodiscard,root_owner=0:0",
            ]
            make_image(template, size, ["mkfs.ext4", *options])
        try:
            copy_sparse(template, self._image(name))
        except OSError as error:
            self._image(name).unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                message = f"cannot make disk of {name}: the host's disk is full"
                raise HostExhausted(message) from error
            raise

    def steps(self, name: str, size: int, origin: str | None) -> list[Step]:
        """Mount it in the box's own mount namespace."""
        return [MountImage(str(self._image(name)), str(self.stage), "ext4")]

    def folder(self, name: str) -> Path:
        """Where `steps` mounted it."""
        return self.stage

    def resize(self, name: str, size: int) -> bool:
        """Only where there is nothing to do."""
        return self._image(name).stat().st_size == size

    def used(self, name: str) -> int:
        """What the file takes on the host's disk."""
        return self._image(name).stat().st_blocks * 512

    def delete(self, name: str) -> None:
        """Remove the file; the space comes back when the box's mount namespace is gone."""
        self._image(name).unlink(missing_ok=True)

    @property
    def snapshots(self) -> Path:
        """Files as the disks are."""
        return self.data / "disks" / SNAPSHOTS

    def flush(self, name: str, snapshot: str) -> None:
        """Of all disks: a filesystem that is mounted in its box alone has no path to ask for it."""
        os.sync()

    def snapshot(self, name: str, snapshot: str) -> None:
        """Copy the file: it takes as long as what is in it."""
        os.sync()
        partial = self.snapshots / f"{PARTIAL}{snapshot}"
        try:
            copy_sparse(self._image(name), partial)
            os.link(partial, self.snapshots / snapshot)
        finally:
            partial.unlink(missing_ok=True)

    def copy_snapshot(self, source: str, snapshot: str) -> None:
        """A second name of the file: nothing writes to it."""
        os.link(self.snapshots / source, self.snapshots / snapshot)

    @property
    def form(self) -> SnapshotForm:
        """The file."""
        return SnapshotForm.IMAGE

    def sender(self, snapshot: str, parent: str | None) -> list[str]:
        """The file."""
        return [str(self.snapshots / snapshot)]

    def begin_receiving(self, snapshot: str) -> list[str]:
        """A file that is not complete, in the place of another one."""
        partial = self.snapshots / f"{PARTIAL}{snapshot}"
        partial.unlink(missing_ok=True)
        return [str(partial)]

    def end_receiving(self, snapshot: str, *, whole: bool) -> None:
        """Give the file its name."""
        partial = self.snapshots / f"{PARTIAL}{snapshot}"
        try:
            if whole:
                os.link(partial, self.snapshots / snapshot)
        finally:
            partial.unlink(missing_ok=True)

    def delete_snapshot(self, snapshot: str) -> None:
        """Remove the file."""
        (self.snapshots / snapshot).unlink(missing_ok=True)

    def _image(self, name: str) -> Path:
        return self.data / "disks" / f"{name}.img"


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


def hold(image: Path) -> tuple[str, int]:
    """The loop device of `image` and a descriptor of it; an older one, if the kernel has not yet let go of it.

    A second device of the same file would be a second filesystem on the same blocks.
    """
    before = loop.attached(image.resolve())
    if before is not None:
        held = os.open(before, os.O_RDWR | os.O_CLOEXEC)
        if loop.attached(image.resolve()) == before:
            return before, held
        os.close(held)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Direct: the pool's own page cache is enough, a second one of the file below it would double the memory.
        return loop.attach(backing, direct=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return loop.attach(backing)
    finally:
        os.close(backing)


def room(home: Path) -> int:
    """What all boxes together may hold of a pool, in bytes.

    btrfs hands out its space in chunks, for data or for trees, and one box can have the last of it made data chunks:
    then trees cannot grow, and nothing can be made or copied, also for half a minute after that box has gone. What
    is left free here is a chunk of each kind.
    """
    size = shutil.disk_usage(home).total
    return size - min(LAST_CHUNKS, size // 5)


def left(home: Path) -> int:
    """Bytes that boxes can still write in a pool."""
    usage = shutil.disk_usage(home)
    return max(0, usage.free - (usage.total - room(home)))


def default_size(data: Path) -> int:
    """What is free on the data folder's disk now, without the reserve."""
    free = shutil.disk_usage(data).free
    if free < RESERVE + SMALLEST:
        message = f"cannot make disk pool in {data}: {free // MIB} MiB are free"
        raise HostUnfit(message, remedy=f"free {(RESERVE + SMALLEST) // MIB} MiB, or set CORRAL_DATA to a larger disk")
    return (free - RESERVE) // MIB * MIB


def make_image(image: Path, size: int, mkfs: list[str]) -> None:
    """A sparse file with a filesystem; complete or not there at all. Raises HostUnfit."""
    partial = image.with_suffix(f".new-{os.getpid()}")
    try:
        with partial.open("xb") as file:
            file.truncate(size)
        done = subprocess.run([*mkfs, str(partial)], capture_output=True, text=True, timeout=MKFS_LIMIT_S, check=False)
        if done.returncode:
            message = f"cannot make {image}: {mkfs[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
            raise HostUnfit(message, remedy=f"check the disk of {image.parent} and the package that has {mkfs[0]}")
        partial.rename(image)
    except FileNotFoundError as error:
        message = f"cannot make {image}: {mkfs[0]} is not installed"
        raise HostUnfit(message, remedy="install btrfs-progs and e2fsprogs") from error
    finally:
        partial.unlink(missing_ok=True)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, leaving out its holes."""
    with source.open("rb") as read, target.open("xb") as write:
        size = os.fstat(read.fileno()).st_size
        os.ftruncate(write.fileno(), size)
        at = 0
        while at < size:
            try:
                start = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            at = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            offset = start
            while offset < at:
                offset += os.pwrite(write.fileno(), os.pread(read.fileno(), min(MIB, at - offset), offset), offset)


def on_btrfs(path: Path) -> bool:
    """Whether a path is on btrfs, by the mount that holds it."""
    mount = mounts.holding(path)
    return mount is not None and mount.fstype == "btrfs"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
