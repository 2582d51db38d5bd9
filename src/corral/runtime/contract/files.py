"""Files of boxes, and connections into them."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass


class FileKind(enum.StrEnum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file in a box. `path` is absolute. `size` in bytes, `mtime` in Unix seconds, `mode` the permission bits."""

    path: str
    kind: FileKind
    size: int
    mode: int
    mtime: float
    uid: int
    gid: int


class FileReader(ABC):
    """A file opened for reading; iterate over its bytes in chunks of at most 256 KiB; close it when done."""

    info: FileInfo

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    async def close(self) -> None:
        """Stop reading and free the connection. Safe to call twice."""


class ByteStream(ABC):
    """A two-way connection: to a port in a box, or to the terminal or the pipes of an execution."""

    @abstractmethod
    async def read(self, limit: int = 65536) -> bytes:
        """Return the next bytes, at most `limit`; b"" when the other side has closed."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting while the other side is slow. Raises BoxGone when it is no more."""

    @abstractmethod
    async def finish(self) -> None:
        """Send end of file; reading goes on. A terminal has none. Raises BoxGone."""

    @abstractmethod
    async def close(self) -> None:
        """Close both directions. Safe to call twice."""
