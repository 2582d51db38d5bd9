"""Disks as files with a filesystem, where there is no btrfs. Owns `<data>/disks`."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from corral.core import wholefile
from corral.runtime.contract import MIB, HostExhausted, SnapshotForm
from corral.runtime.rootfs.filesystem import make_image
from corral.runtime.rootfs.pool import PARTIAL, SNAPSHOTS, DiskPool
from corral.runtime.rootfs.steps import MountImage, Step


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

    def disks(self) -> list[str]:
        """The files, but for templates, which have another suffix."""
        return [path.stem for path in (self.data / "disks").glob("*.img")]

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
            self._keep(partial, snapshot)
        finally:
            partial.unlink(missing_ok=True)

    def copy_snapshot(self, source: str, snapshot: str) -> None:
        """A second name of the file: nothing writes to it."""
        self._keep(self.snapshots / source, snapshot)

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
                self._keep(partial, snapshot)
        finally:
            partial.unlink(missing_ok=True)

    def delete_snapshot(self, snapshot: str) -> None:
        """Remove the file."""
        (self.snapshots / snapshot).unlink(missing_ok=True)

    def _keep(self, file: Path, snapshot: str) -> None:
        """Have it be the snapshot's, on the disk too."""
        wholefile.sync(file)
        os.link(file, self.snapshots / snapshot)
        wholefile.sync(self.snapshots)

    def _image(self, name: str) -> Path:
        return self.data / "disks" / f"{name}.img"


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
