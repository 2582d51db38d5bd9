"""One server per data folder: an exclusive lock that ends with the process, however it ends.

Owns `<data>/server.lock`. Must not be inherited: the descriptor is closed in every program that the server starts.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from corral.core import errors


class FolderLock:
    """Holds a data folder from `acquire` to `release`, or to the end of the process."""

    def __init__(self, data: Path) -> None:
        self._path = data / "server.lock"
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock. Raises errors.Unavailable that names the process which holds it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.Unavailable(
                f"cannot use data folder {self._path.parent}: {error.strerror}",
                remedy="name a folder that you may write to with --data or CORRAL_DATA",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise errors.Unavailable(
                f"cannot use data folder {self._path.parent}: process {holder} serves it",
                remedy="stop that server, or name another folder with --data or CORRAL_DATA",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the folder back. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
