"""Content on its way: what can be sent, and what is received, in chunks, in constant memory.

Local files are read and written in the calling task: a chunk of a local file takes less time than handing it to a
thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from corral_sdk import errors

Progress = Callable[[int], None]
#: What can be sent: a local file, bytes, a function that gives chunks, or an open binary file. The last one cannot
#: be read a second time, so a lost connection is an error at once.
Source = Path | bytes | Callable[[], AsyncIterator[bytes]] | BinaryIO

CHUNK = 256 * 1024


class AsyncDownload:
    """Content that is being received; iterate over its chunks. `size` in bytes, None if not told."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        length = response.headers.get("content-length", "")
        self.size = int(length) if length.isdigit() else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_raw():
            yield chunk

    async def read(self) -> bytes:
        """Return all of it."""
        content = bytearray()
        async for chunk in self:
            content += chunk
        return bytes(content)

    async def copy_to(self, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write all of it to an open local file and return its size; `on_progress` gets the bytes received so far."""
        received = 0
        async for chunk in self:
            file.write(chunk)
            received += len(chunk)
            if on_progress is not None:
                on_progress(received)
        return received

    async def fetch(self, local: Path, *, on_progress: Progress | None = None) -> int:
        """As `copy_to`, to `local`, which is as before after an error."""
        partial = local.with_name(f".{local.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                received = await self.copy_to(file, on_progress=on_progress)
            partial.replace(local)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return received


def size_of(source: Source) -> int | None:
    """Return how many bytes there are to send, None if that shows at the end only."""
    if isinstance(source, Path):
        return source.stat().st_size
    return len(source) if isinstance(source, bytes) else None


async def counted(source: Source, size: int | None, on_progress: Progress | None) -> AsyncIterator[bytes]:
    """Yield the chunks of `source`; `on_progress` gets the bytes sent so far. Raises Invalid if `size` was another."""
    sent = 0
    async for chunk in _chunks(source):
        sent += len(chunk)
        yield chunk
        if on_progress is not None:
            on_progress(sent)
    if size is not None and sent != size:
        raise errors.Invalid(f"cannot send file: it changed meanwhile, {sent} of {size} bytes were read")


async def _chunks(source: Source) -> AsyncIterator[bytes]:
    if isinstance(source, Path | bytes) or not callable(source):
        for chunk in _local_chunks(source):
            yield chunk
    else:
        async for chunk in source():
            yield chunk


def _local_chunks(source: Path | bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK):
            yield source[start : start + CHUNK]
        return
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        while chunk := file.read(CHUNK):
            yield chunk
