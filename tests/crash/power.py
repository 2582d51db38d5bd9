"""A host that can lose its power: a file system that forgets what was not on the disk, and a server on it.

Owns the loop device, its mount and the end of everything that runs on it. Tests cut and boot here only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from corral.runtime.oci.record import boot_id
from corral.runtime.oci.settings import Places
from tests.harness.server import Server, unmount_below

#: EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h; 2 is EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written out.
_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2


class Disk:
    """An ext4 file system in a file, mounted at `home`."""

    def __init__(self, folder: Path, size: int) -> None:
        self.home = folder / "disk"
        self._file = folder / "disk.img"
        self.home.mkdir()
        with self._file.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", str(self._file))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._file), str(self.home))

    def cut(self) -> None:
        """From here on nothing reaches the disk, and what had not reached it is gone at the next `mount`."""
        fd = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        unmount_below(self.home)
        deadline = time.monotonic() + 20
        while any(str(self._file) in path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")):
            assert time.monotonic() < deadline, "the disk is still in use"
            time.sleep(0.05)


class Machine(Server):
    """A server whose data folder is on such a disk."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.disk = Disk(folder, 16 << 30)
        super().__init__(self.disk.home / "data", runtime="oci", env=env)
        self.log_path = folder / "server.log"
        self._places = Places(self.data.resolve(), Path("/run/corral"))

    def lose_power(self) -> None:
        """Everything that runs ends, and what is in memory goes; the disk has what was written through to it."""
        self.disk.cut()
        self.kill9()
        deadline = time.monotonic() + 20
        while pids := list(self._processes()):
            assert time.monotonic() < deadline, f"processes are left: {pids}"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        unmount_below(self._places.memory)
        shutil.rmtree(self._places.memory)
        self.disk.unmount()

    def boot(self) -> None:
        """Start the server on what the disk has, on a host that has booted since the boxes began."""
        self.disk.mount()
        now = boot_id()
        for path in self._places.boxes.glob("*/*"):
            if path.is_file() and now in (text := path.read_text()):
                path.write_text(text.replace(now, str(uuid.uuid4())))
        self.start()

    def close(self) -> None:
        """Also take the disk away."""
        try:
            super().close()
        finally:
            self.disk.unmount()

    def _processes(self) -> Iterator[int]:
        """Those of its boxes, and those that a server leaves behind for a moment."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                files = {os.readlink(file) for file in (entry / "fd").iterdir()}
                if (
                    f"/corral-{self._places.instance}/" in (entry / "cgroup").read_text()
                    or str(self._places.lock) in files
                ):
                    yield int(entry.name)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
