# Made from _async/files.py by sdk/tools/generate_sync.py: change that and run it again.
"""Files into and out of a devbox, in chunks, in constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from corral_sdk import _multipart
from corral_sdk._sync.content import Download, Progress, Source, counted, size_of
from corral_sdk._sync.transport import TRANSFER_S, Call, Transport


class Files:
    """The files of one devbox. Paths in it are absolute, `~/…`, or relative to the user's home."""

    def __init__(self, transport: Transport, devbox_id: str) -> None:
        self._transport = transport
        self._path = f"/v1/devboxes/{devbox_id}"

    def write(self, path: str, source: Source, *, on_progress: Progress | None = None) -> None:
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

        def body() -> Iterator[bytes]:
            yield frame.head
            for chunk in counted(source, size, on_progress):
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
        self._transport.call(call)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Download]:
        """Open one file for reading. Raises NotFound, WrongState, Invalid (not a regular file)."""
        call = Call("POST", f"{self._path}/download_file", json={"path": path}, timeout_s=TRANSFER_S)
        with self._transport.stream(call) as response:
            yield Download(response)

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        with self.open(path) as download:
            return download.read()

    def fetch(self, path: str, local: Path, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to `local` and return its size; `local` is as before after an error."""
        with self.open(path) as download:
            return download.fetch(local, on_progress=on_progress)

    def copy_to(self, path: str, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to an open local file and return its size in bytes."""
        with self.open(path) as download:
            return download.copy_to(file, on_progress=on_progress)
