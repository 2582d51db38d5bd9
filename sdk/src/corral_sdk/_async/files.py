"""Files into and out of a devbox, in chunks, in constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from corral_sdk import _multipart
from corral_sdk._async.content import AsyncDownload, Progress, Source, counted, size_of
from corral_sdk._async.transport import TRANSFER_S, AsyncTransport, Call


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
        size = size_of(source)
        headers = {"Content-Type": frame.content_type}
        length = frame.length(size)
        if length is not None:
            headers["Content-Length"] = str(length)

        async def body() -> AsyncIterator[bytes]:
            yield frame.head
            async for chunk in counted(source, size, on_progress):
                yield chunk
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
        async with self.open(path) as download:
            return await download.read()

    async def fetch(self, path: str, local: Path, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to `local` and return its size; `local` is as before after an error."""
        async with self.open(path) as download:
            return await download.fetch(local, on_progress=on_progress)

    async def copy_to(self, path: str, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to an open local file and return its size in bytes."""
        async with self.open(path) as download:
            return await download.copy_to(file, on_progress=on_progress)
