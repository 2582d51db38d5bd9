"""Copies of boxes' disks, made while the boxes stand still for a moment.

Owns the folder of marks of boxes that stand still. Must not know what is on a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TypeVar

from corral.core.clock import Clock
from corral.core.tasks import settled
from corral.runtime.cgroup.layout import Layout
from corral.runtime.contract import BoxGone, Copied, NoSuchSnapshot, SnapshotExists, SnapshotForm
from corral.runtime.oci.faults import refused
from corral.runtime.oci.record import Record
from corral.runtime.oci.settings import Places
from corral.runtime.rootfs import transfer
from corral.runtime.rootfs.pool import DiskPool
from corral.runtime.spool import ID_PATTERN

T = TypeVar("T")


class Snapshots:
    """Snapshots of one data folder's boxes. Calls block for some writing to the disk: use a worker thread."""

    def __init__(self, places: Places, layout: Layout, pool: DiskPool, clock: Clock) -> None:
        self._places = places
        self._layout = layout
        self._pool = pool
        self._clock = clock

    def open(self) -> set[str]:
        """Thaw whatever a killed server left standing still; returns the handles, for `let_go` when guests wake."""
        self._places.frozen.mkdir(mode=0o700, exist_ok=True)
        stood = {mark.name for mark in self._places.frozen.iterdir()}
        for handle in stood:
            self.thaw(handle)
        return stood

    def mark(self, handle: str) -> None:
        """Have whoever comes after a killed server let the box go on, and wake its guest."""
        (self._places.frozen / handle).touch()

    def hold(self, handle: str) -> None:
        """Have the box stand still, until `let_go` or the start of another server. Raises OSError."""
        self.mark(handle)
        group = self._places.group(self._layout, handle)
        if group.can_freeze:
            group.freeze()

    def thaw(self, handle: str) -> None:
        """Have the box go on, with a guest that may have to be woken. Idempotent."""
        group = self._places.group(self._layout, handle)
        if group.can_freeze:
            group.thaw()

    def let_go(self, handle: str) -> None:
        """The end of `hold` and `mark`. Idempotent."""
        self.thaw(handle)
        (self._places.frozen / handle).unlink(missing_ok=True)

    def holds(self, handle: str) -> bool:
        """Whether the box stands still."""
        return (self._places.frozen / handle).exists()

    def take(self, box: Record, name: str) -> Copied:
        """Copy the disk of the box. Raises SnapshotExists, BoxGone, HostExhausted, HostUnfit."""
        handle = box.handle
        if (self._pool.snapshots / name).exists():
            raise _exists(name)
        try:
            # Most of what has to be written is written while the box goes on.
            self._pool.flush(handle, name)
            size = self._pool.used(handle)
            began = self._clock.monotonic()
            with self._standing_still(handle):
                self._pool.snapshot(handle, name)
            return Copied(size, (self._clock.monotonic() - began) * 1e3, box.layers)
        except FileNotFoundError as error:
            message = f"cannot snapshot box {box.id}: it has no disk"
            raise BoxGone(message) from error
        except FileExistsError as error:
            raise _exists(name) from error
        except OSError as error:
            raise refused(f"snapshot box {box.id}", error.errno or 0, str(error)) from error

    def require(self, name: str) -> None:
        """Raise NoSuchSnapshot when there is none of this name."""
        if not ID_PATTERN.fullmatch(name) or not (self._pool.snapshots / name).exists():
            message = f"cannot use snapshot {name}: there is none"
            raise NoSuchSnapshot(message)

    def copy(self, source: str, name: str) -> None:
        """Keep one under another name too. Raises NoSuchSnapshot, SnapshotExists, HostExhausted, HostUnfit."""
        self.require(source)
        try:
            self._pool.copy_snapshot(source, name)
        except FileExistsError as error:
            raise _exists(name) from error
        except OSError as error:
            raise refused(f"copy snapshot {source}", error.errno or 0, str(error)) from error

    @property
    def form(self) -> SnapshotForm:
        """What they are as streams."""
        return self._pool.form

    async def send(self, name: str, parent: str | None) -> AsyncGenerator[bytes, None]:
        """One as a stream; see the contract. Raises NoSuchSnapshot, HostUnfit."""
        for each in (name, parent):
            if each is not None:
                self.require(each)
        if parent is not None and not self.form.has_differences:
            raise ValueError(f"a snapshot of form {self.form} cannot be sent beside a parent")
        stream = transfer.compressed(self._pool.sender(name, parent))
        async with contextlib.aclosing(stream):
            async for piece in stream:
                yield piece

    async def receive(self, name: str, streams: AsyncIterator[AsyncIterator[bytes]]) -> None:
        """One from streams; see the contract. Raises SnapshotExists, HostExhausted, HostUnfit."""
        if (self._pool.snapshots / name).exists():
            raise _exists(name)
        whole = False
        try:
            async for stream in streams:
                receiver = await self._on_disk(name, self._pool.begin_receiving)
                await transfer.expand(stream, receiver)
            whole = True
        finally:
            await self._on_disk(name, functools.partial(self._pool.end_receiving, whole=whole))

    async def _on_disk(self, name: str, work: Callable[[str], T]) -> T:
        """Run a part of `receive` on a thread, to its end; what the disk refuses as a failure of the contract."""
        try:
            return await settled(asyncio.to_thread(work, name))
        except FileExistsError as error:
            raise _exists(name) from error
        except OSError as error:
            raise refused(f"receive snapshot {name}", error.errno or 0, str(error)) from error

    def forget(self, name: str) -> None:
        """Remove one; one that is not there is fine. Raises HostUnfit."""
        try:
            self._pool.delete_snapshot(name)
        except OSError as error:
            raise refused(f"remove snapshot {name}", error.errno or 0, str(error)) from error

    def names(self) -> list[str]:
        """All of them; those that are being made have a dot in front and are none."""
        return sorted(path.name for path in self._pool.snapshots.glob("[!.]*"))

    @contextlib.contextmanager
    def _standing_still(self, handle: str) -> Iterator[None]:
        group, mark = self._places.group(self._layout, handle), self._places.frozen / handle
        if not group.can_freeze or not group.exists():
            # Its processes have ended, or the host cannot: the copy is of one moment all the same.
            yield
            return
        mark.touch()
        try:
            group.freeze()
            yield
        finally:
            group.thaw()
            mark.unlink(missing_ok=True)


def _exists(name: str) -> SnapshotExists:
    return SnapshotExists(f"cannot make snapshot {name}: there is one already")
