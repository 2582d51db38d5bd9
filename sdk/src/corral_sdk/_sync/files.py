# Made from _async/files.py by sdk/tools/generate_sync.py: change that and run it again.
"""Files into and out of a devbox, in chunks, in constant memory.

Local files are read and written in the calling task: a chunk of a local file takes less time than handing it to a
thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from corral_sdk import _multipart, errors
from corral_sdk._sync.transport import TRANSFER_S, Call, Transport

Progress = Callable[[int], None]
#: What can be sent: a local file, bytes, a function that gives chunks, or an open binary file. The last one cannot
#: be read a second time, so a lost connection is an error at once.
Source = Path | bytes | Callable[[], Iterator[bytes]] | BinaryIO

CHUNK = 256 * 1024


class Download:
    """A file that is being read from a devbox; iterate over its chunks. `size` in bytes, None if not told."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        length = response.headers.get("content-length", "")
        self.size = int(length) if length.isdigit() else None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._response.iter_raw():
            yield chunk


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
        size = _size_of(source)
        headers = {"Content-Type": frame.content_type}
        length = frame.length(size)
        if length is not None:
            headers["Content-Length"] = str(length)

        def body() -> Iterator[bytes]:
            sent = 0
            yield frame.head
            for chunk in _chunks(source):
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
        self._transport.call(call)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Download]:
        """Open one file for reading. Raises NotFound, WrongState, Invalid (not a regular file)."""
        call = Call("POST", f"{self._path}/download_file", json={"path": path}, timeout_s=TRANSFER_S)
        with self._transport.stream(call) as response:
            yield Download(response)

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        content = bytearray()
        with self.open(path) as download:
            for chunk in download:
                content += chunk
        return bytes(content)

    def fetch(self, path: str, local: Path, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to `local` and return its size; `local` is as before after an error."""
        partial = local.with_name(f".{local.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                received = self.copy_to(path, file, on_progress=on_progress)
            partial.replace(local)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return received

    def copy_to(self, path: str, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write one file of the devbox to an open local file and return its size in bytes."""
        received = 0
        with self.open(path) as download:
            for chunk in download:
                file.write(chunk)
                received += len(chunk)
                if on_progress is not None:
                    on_progress(received)
        return received


def _size_of(source: Source) -> int | None:
    if isinstance(source, Path):
        return source.stat().st_size
    return len(source) if isinstance(source, bytes) else None


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, Path | bytes) or not callable(source):
        for chunk in _local_chunks(source):
            yield chunk
    else:
        for chunk in source():
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
