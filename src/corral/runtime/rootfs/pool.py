"""The disk of every box: what a pool of them can do, whatever it is made of.

Calls block for a few system calls on the local disk (`open`: a mkfs, once); call them on a worker thread. A pool must
not know what a box is but a name and a size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from corral.runtime.contract import SnapshotForm
from corral.runtime.rootfs.steps import Step

#: No id begins with a dot.
SNAPSHOTS: Final = ".snapshots"
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
    def disks(self) -> list[str]:
        """Names of all disks."""

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
