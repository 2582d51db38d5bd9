"""Files in a running devbox, as its user sees them.

Owns the check of who asks, the limits of the text calls and what the devbox's log says of a call. Paths are absolute,
`~/…` or relative to the home; what they mean is decided in the box, never here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from corral.core import errors
from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.file_calls import FileCalls, FileVerb
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import MIB, FileInfo, FileReader, Runtime

#: The dialect's bound for files that are read or written as one text.
TEXT_LIMIT: Final = 100 * MIB

#: What the log says of a transfer whose other end went away.
BROKEN_OFF: Final = "the client broke it off"

_PIECE: Final = 256 * 1024


class Files:
    """See the methods. All raise errors.NotFound, errors.WrongState (not running), errors.Invalid (the path
    does not allow it) and errors.Unavailable (the box does not answer).
    """

    def __init__(self, store: Store, runtime: Runtime, vitals: Vitals, calls: FileCalls) -> None:
        self._store = store
        self._runtime = runtime
        self._vitals = vitals
        self._calls = calls

    async def read_text(self, account_id: str, devbox_id: str, path: str) -> str:
        """A file's content. Raises errors.TooLarge over 100 MiB and errors.Invalid when it is not UTF-8."""
        await self._require_running(account_id, devbox_id, "read a file in")
        async with self._telling(devbox_id, FileVerb.READ, path) as told:
            data = await self._read_whole(devbox_id, path)
            told.size = len(data)
            try:
                return data.decode()
            except UnicodeDecodeError as error:
                raise errors.Invalid(
                    f"cannot read {path} as text: byte {error.start} is not UTF-8; download it"
                ) from error

    async def write_text(self, account_id: str, devbox_id: str, path: str, text: str) -> None:
        """Replace a file's content, making its parent directories.

        Raises errors.TooLarge over 100 MiB and errors.OutOfDisk.
        """
        data = text.encode()
        if len(data) > TEXT_LIMIT:
            raise errors.TooLarge(f"cannot write {path} as text: it is over 100 MiB; upload it")
        await self._write(account_id, devbox_id, FileVerb.WRITE, path, pieces(data))

    async def upload(self, account_id: str, devbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file from a stream; return its size in bytes. After an error the old content is as it was.

        Errors that `chunks` raises pass through. Raises errors.OutOfDisk.
        """
        return await self._write(account_id, devbox_id, FileVerb.UPLOAD, path, chunks)

    async def download(self, account_id: str, devbox_id: str, path: str) -> FileReader:
        """Open a file; the caller iterates over it and closes it."""
        await self._require_running(account_id, devbox_id, "read a file in")
        try:
            inner = await self._open(devbox_id, path)
        except errors.CorralError as error:
            await self._calls.record(devbox_id, FileVerb.DOWNLOAD, path, problem=error.message)
            raise
        return _Download(inner, devbox_id, path, self._calls)

    async def list(self, account_id: str, devbox_id: str, path: str) -> list[FileInfo]:
        """Entries of a directory, by name."""
        await self._require_running(account_id, devbox_id, "list files in")
        with self._vitals.watching(devbox_id):
            return await self._runtime.list_files(devbox_id, path)

    # -- inside

    async def _write(
        self, account_id: str, devbox_id: str, verb: FileVerb, path: str, chunks: AsyncIterator[bytes]
    ) -> int:
        await self._require_running(account_id, devbox_id, "write a file in")
        async with self._telling(devbox_id, verb, path) as told:
            with self._vitals.watching(devbox_id):
                told.size = await self._runtime.write_file(devbox_id, path, chunks)
            return told.size

    async def _open(self, devbox_id: str, path: str) -> _Reader:
        with self._vitals.watching(devbox_id):
            return _Reader(await self._runtime.read_file(devbox_id, path), devbox_id, self._vitals)

    async def _read_whole(self, devbox_id: str, path: str) -> bytearray:
        reader = await self._open(devbox_id, path)
        try:
            data = bytearray()
            if reader.info.size <= TEXT_LIMIT:
                async for chunk in reader:
                    data += chunk
                    if len(data) > TEXT_LIMIT:
                        break
            if max(reader.info.size, len(data)) > TEXT_LIMIT:
                raise errors.TooLarge(f"cannot read {path} as text: it is over 100 MiB; download it")
        finally:
            await reader.close()
        return data

    @asynccontextmanager
    async def _telling(self, devbox_id: str, verb: FileVerb, path: str) -> AsyncIterator[_Told]:
        """Record the call at its end, with the size that it was given or with what it raises."""
        told = _Told()
        try:
            yield told
        except Exception as error:
            problem = error.message if isinstance(error, errors.CorralError) else BROKEN_OFF
            await self._calls.record(devbox_id, verb, path, problem=problem)
            raise
        await self._calls.record(devbox_id, verb, path, size=told.size)

    async def _require_running(self, account_id: str, devbox_id: str, verb: str) -> None:
        await self._store.read(lambda connection: rows.require_running(connection, account_id, devbox_id, verb))


@dataclass(slots=True)
class _Told:
    size: int = 0


class _Reader(FileReader):
    """Passes on what the box sends; its failures as errors of the API."""

    def __init__(self, inner: FileReader, devbox_id: str, vitals: Vitals) -> None:
        self.info = inner.info
        self._inner = inner
        self._devbox_id = devbox_id
        self._vitals = vitals

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._vitals.watching(self._devbox_id):
            async for chunk in self._inner:
                yield chunk

    async def close(self) -> None:
        await self._inner.close()


class _Download(FileReader):
    """Counts what is passed on, and records it when it is closed."""

    def __init__(self, inner: _Reader, devbox_id: str, path: str, calls: FileCalls) -> None:
        self.info = inner.info
        self._inner = inner
        self._devbox_id = devbox_id
        self._path = path
        self._calls = calls
        self._passed = 0
        self._whole = False
        self._problem = ""
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._passed += len(chunk)
                yield chunk
        except errors.CorralError as error:
            self._problem = error.message
            raise
        self._whole = True

    async def close(self) -> None:
        await self._inner.close()
        if self._closed:
            return
        self._closed = True
        # Who has got as many bytes as the file had when it was opened asks for no more.
        if not self._problem and not self._whole and self._passed < max(1, self.info.size):
            self._problem = f"{BROKEN_OFF} after {self._passed} of {self.info.size} bytes"
        size = None if self._problem else self._passed
        await self._calls.record(self._devbox_id, FileVerb.DOWNLOAD, self._path, size=size, problem=self._problem)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """`data` in chunks as the runtime takes them."""
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]
