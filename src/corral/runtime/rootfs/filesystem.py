"""Filesystems in files of the host: how large one may be, how it is made, and its loop device."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from corral.runtime.contract import GIB, MIB, HostUnfit
from corral.runtime.linux import loop, mounts

#: Left to the host when the pool's size is chosen. The pool is sparse: this bounds what it can grow to.
RESERVE: Final = 4 * GIB
SMALLEST: Final = 512 * MIB
MKFS_LIMIT_S: Final = 60
#: A chunk of data and one of trees, each a tenth of the filesystem and at most 1 GiB.
LAST_CHUNKS: Final = 2 * GIB + 512 * MIB


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


def on_btrfs(path: Path) -> bool:
    """Whether a path is on btrfs, by the mount that holds it."""
    mount = mounts.holding(path)
    return mount is not None and mount.fstype == "btrfs"
