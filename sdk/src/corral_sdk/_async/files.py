"""Files into and out of a devbox, in chunks, in constant memory.

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

from corral_sdk import _multipart, errors
from corral_sdk._async.transport import TRANSFER_S, AsyncTransport, Call

Progress = Callable[[int], None]
#: What can be sent: a local file, bytes, a function that gives chunks, or an open binary file. The last one cannot
#: be read a second time, so a lost connection is an error at once.
Source = Path | bytes | Callable[[], AsyncIterator[bytes]] | BinaryIO

CHUNK = 256 * 1024


class AsyncDownload:
    """A file that is being read from a devbox; iterate over its chunks. `size` in bytes, None if not told."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        length = response.headers.get("content-length", "")
        self.size = int(length) if length.isdigit() else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_raw():
            yield chunk


class AsyncFiles:
    """The files of one devbox. Paths in it are absolute, `~/…`, or relative to the user's home."""

    def __init__(self, transport: AsyncTransport, devbox_id: str) -> None:
        self._transport = transport
        self._path = f"/v1/devboxes/{devbox_id}"

    async def write(self, path: str, source: Source, *, on_progress: Progress | None = None) -> None:
        """Write one file whole, making its parent folders; `on_progress` gets the bytes sent so far.

        Raises NotFound, WrongState, Invalid (a path that cannot be written), TooLarge, OutOfDisk, OSError of a local
        file.
        """
        frame = _multipart.frame({"path": path}, "file")
        size = _size_of(source)
        headers = {"Content-Type": frame.content_type}
        length = frame.length(size)
        if length is not None:
            headers["Content-Length"] = str(length)

        async def body() -> AsyncIterator[bytes]:
            sent = 0
            yield frame.head
            async for chunk in _chunks(source):
                sent += len(chunk)
                yield chunk
                if on_progress is not None:
                    on_progress(sent)
            if size is not None and sent != size:
                raise errors.Invalid(f"cannot send file: it changed meanwhile, {sent} of {size} bytes were read")
            yield frame.tail

        call = Call(
            "POST",
            f"{self._path}/upload_file",
            headers=headers,
            body=body,
            timeout_s=TRANSFER_S,
            repeatable=isinstance(source, Path | bytes) or callable(source),
        )
        await self._transport.call(call)

    @contextlib.asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[AsyncDownload]:
        """Open one file for reading. Raises NotFound, WrongState, Invalid (not a regular file)."""
        call = Call("POST", f"{self._path}/download_file", json={"path": path}, timeout_s=TRANSFER_S)
        async with self._transport.stream(call) as response:
            yield AsyncDownload(response)

    async def read(self, path: str) -> bytes:
        """Return the content of one file."""
        content = bytearray()
        async with self.open(path) as download:
            async for chunk in download:
                content += chunk
        return bytes(content)

    async def fetch(self, path: str, local: Path, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to `local` and return its size; `local` is as before after an error."""
        partial = local.with_name(f".{local.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                received = await self.copy_to(path, file, on_progress=on_progress)
            partial.replace(local)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return received

    async def copy_to(self, path: str, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to an open local file and return its size in bytes."""
        received = 0
        async with self.open(path) as download:
            async for chunk in download:
                file.write(chunk)
                received += len(chunk)
                if on_progress is not None:
                    on_progress(received)
        return received


def _size_of(source: Source) -> int | None:
    if isinstance(source, Path):
        return source.stat().st_size
    return len(source) if isinstance(source, bytes) else None


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
