"""Stored objects: bytes under an id, sent and fetched at addresses that the server gives, in constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

from corral_sdk import errors
from corral_sdk._async.content import AsyncDownload, Progress, Source, counted, size_of
from corral_sdk._async.transport import AsyncTransport, Call
from corral_sdk.models import ObjectInfo

#: Ends of names -> what the server calls the content.
_TYPES = {
    ".tgz": "tgz",
    ".tar.gz": "tgz",
    ".tar": "tar",
    ".gz": "gzip",
    ".txt": "text",
    ".md": "text",
    ".json": "text",
}


class AsyncObjects:
    """The objects of the key's account."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
        self,
        source: Source,
        name: str,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        on_progress: Progress | None = None,
    ) -> ObjectInfo:
        """Store something under a new id and return it; nobody can change it then, but it can be deleted.

        `content_type` is text, binary, gzip, tar, tgz or unspecified, by default as the end of the name says; devboxes
        unpack the archives among them. `ttl_s` is how long it lives. Raises Invalid, TooLarge, Exhausted.
        """
        body: dict[str, object] = {"name": name, "content_type": content_type or kind_of(name)}
        if metadata:
            body["metadata"] = dict(metadata)
        if ttl_s is not None:
            body["ttl_ms"] = round(ttl_s * 1000)
        wire = await self._transport.json(Call("POST", "/v1/objects", json=body))
        made = ObjectInfo.from_wire(wire)
        try:
            await self._send(str(wire.get("upload_url")), wire.get("upload_headers") or {}, source, on_progress)
        except BaseException:
            with contextlib.suppress(errors.CorralError):  # the first failure is the one to be told
                await self.delete(made.id)
            raise
        return ObjectInfo.from_wire(await self._transport.json(Call("POST", f"{_path(made.id)}/complete", json={})))

    async def get(self, object_id: str) -> ObjectInfo:
        """Return an object by its id, a deleted one too. Raises NotFound."""
        return ObjectInfo.from_wire(await self._transport.json(Call("GET", _path(object_id))))

    async def list(
        self,
        *,
        name: str | None = None,
        content_type: str | None = None,
        state: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[ObjectInfo]:
        """Yield objects, newest first: those with this part of a name, this type and state; no deleted ones else."""
        params = {"limit": str(page_size), "include_total_count": "false"}
        given = {"name": name, "content_type": content_type, "state": state}
        params |= {key: value for key, value in given.items() if value}
        async for wire in self._transport.pages(Call("GET", "/v1/objects", params=params), "objects"):
            yield ObjectInfo.from_wire(wire)

    async def delete(self, object_id: str) -> ObjectInfo:
        """Delete an object, whatever its state. Raises NotFound."""
        return ObjectInfo.from_wire(await self._transport.json(Call("POST", f"{_path(object_id)}/delete", json={})))

    async def url(self, object_id: str, *, seconds: int = 3600) -> str:
        """Return an address at which anybody can fetch the content for so many seconds. Raises WrongState."""
        call = Call("GET", f"{_path(object_id)}/download", params={"duration_seconds": str(seconds)})
        return str((await self._transport.json(call))["download_url"])

    @contextlib.asynccontextmanager
    async def open(self, object_id: str) -> AsyncIterator[AsyncDownload]:
        """Open the content for reading. Raises NotFound, WrongState."""
        async with self._transport.outside("GET", await self.url(object_id)) as response:
            yield AsyncDownload(response)

    async def read(self, object_id: str) -> bytes:
        """Return the content whole."""
        async with self.open(object_id) as download:
            return await download.read()

    async def fetch(self, object_id: str, local: Path, *, on_progress: Progress | None = None) -> int:
        """Write the content to `local` and return its size; `local` is as before after an error."""
        async with self.open(object_id) as download:
            return await download.fetch(local, on_progress=on_progress)

    async def copy_to(self, object_id: str, file: BinaryIO, *, on_progress: Progress | None = None) -> int:
        """Write the content to an open local file and return its size in bytes."""
        async with self.open(object_id) as download:
            return await download.copy_to(file, on_progress=on_progress)

    async def _send(self, url: str, headers: Mapping[str, str], source: Source, on_progress: Progress | None) -> None:
        size = size_of(source)
        length = {} if size is None else {"Content-Length": str(size)}

        async def body() -> AsyncIterator[bytes]:
            async for chunk in counted(source, size, on_progress):
                yield chunk

        async with self._transport.outside("PUT", url, headers={**headers, **length}, body=body):
            return


def kind_of(name: str) -> str:
    """What the server calls content with such a name."""
    return next((kind for end, kind in _TYPES.items() if name.lower().endswith(end)), "binary")


def _path(object_id: str) -> str:
    if not object_id or not all(char.isalnum() or char in "-_" for char in object_id):
        raise errors.Invalid(f"cannot look up {object_id!r}: an id has letters, digits, - and _ only")
    return f"/v1/objects/{object_id}"
