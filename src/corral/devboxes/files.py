"""Files in a running devbox, as its user sees them.

Owns the check of who asks and the limits of the text calls. Paths are absolute, `~/…` or relative to the home; what
they mean is decided in the box, never here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from corral.core import errors
from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import MIB, FileInfo, FileReader, Runtime

#: The dialect's bound for files that are read or written as one text.
TEXT_LIMIT: Final = 100 * MIB

_PIECE: Final = 256 * 1024


class Files:
    """See the methods. All raise errors.NotFound, errors.WrongState (not running), errors.Invalid (the path
    does not allow it) and errors.Unavailable (the box does not answer).
    """

    def __init__(self, store: Store, runtime: Runtime, vitals: Vitals) -> None:
        self._store = store
        self._runtime = runtime
        self._vitals = vitals

    async def read_text(self, account_id: str, devbox_id: str, path: str) -> str:
        """A file's content. Raises errors.TooLarge over 100 MiB and errors.Invalid when it is not UTF-8."""
        reader = await self.download(account_id, devbox_id, path)
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
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise errors.Invalid(
                f"cannot read {path} as text: byte {error.start} is not UTF-8; download it"
            ) from error

    async def write_text(self, account_id: str, devbox_id: str, path: str, text: str) -> None:
        """Replace a file's content, making its parent directories. Raises errors.TooLarge over 100 MiB."""
        data = text.encode()
        if len(data) > TEXT_LIMIT:
            raise errors.TooLarge(f"cannot write {path} as text: it is over 100 MiB; upload it")
        await self.upload(account_id, devbox_id, path, pieces(data))

    async def upload(self, account_id: str, devbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file from a stream; return its size in bytes. After an error the old content is as it was.

        Errors that `chunks` raises pass through. Raises errors.TooLarge when the devbox's disk is full.
        """
        await self._require_running(account_id, devbox_id, "write a file in")
        with self._vitals.watching(devbox_id):
            return await self._runtime.write_file(devbox_id, path, chunks)

    async def download(self, account_id: str, devbox_id: str, path: str) -> FileReader:
        """Open a file; the caller iterates over it and closes it."""
        await self._require_running(account_id, devbox_id, "read a file in")
        with self._vitals.watching(devbox_id):
            return _Reader(await self._runtime.read_file(devbox_id, path), devbox_id, self._vitals)

    async def list(self, account_id: str, devbox_id: str, path: str) -> list[FileInfo]:
        """Entries of a directory, by name."""
        await self._require_running(account_id, devbox_id, "list files in")
        with self._vitals.watching(devbox_id):
            return await self._runtime.list_files(devbox_id, path)

    async def _require_running(self, account_id: str, devbox_id: str, verb: str) -> None:
        await self._store.read(lambda connection: rows.require_running(connection, account_id, devbox_id, verb))


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


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """`data` in chunks as the runtime takes them."""
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]
