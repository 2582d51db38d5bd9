"""HTTP of objects.

Owns the order of calls behind each route, and how content travels. Must not hold a rule about an object: `service`
does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import Path, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from corral.core import errors
from corral.http import hold, params
from corral.http.model import Nothing
from corral.storage import model, wire
from corral.storage.service import DOWNLOAD_S, Objects

#: The longest time for which an address of a download holds: a week, as with S3.
MAX_DOWNLOAD_S: Final = 7 * 24 * 3600

#: Seconds for which an uploading client may send nothing.
SILENCE_S: Final = 120.0

ObjectId = Annotated[str, Path(pattern=wire.OBJECT_ID)]
MetadataKey = Annotated[str, Path(max_length=256)]
Token = Annotated[str, Query(max_length=512)]
Search = Annotated[str | None, Query(max_length=256, pattern=r"\S")]
Part = Annotated[str | None, Query(max_length=256)]


class ObjectRoutes:
    """Create, complete, look at and delete objects; send and fetch their content. `url` is the server's address."""

    def __init__(self, objects: Objects, *, url: str | None = None) -> None:
        self._objects = objects
        self._url = url

    async def create(self, request: Request, body: wire.ObjectBody) -> wire.ObjectView:
        """Record an object; its content is to be PUT to `upload_url`, without a key, and then completed."""
        keep, object_id = params.keep(request), self._objects.new_id()
        url = await self._objects.upload_url(object_id, self._base(request))

        def kept(connection: sa.Connection, made: model.StoredObject) -> None:
            if keep is not None:
                keep(connection, wire.object_view(made, url).model_dump_json(exclude_none=True).encode())

        account_id = params.account_id(request)
        made = await self._objects.create(account_id, wire.wish(body), object_id=object_id, also=kept)
        return wire.object_view(made, url)

    async def complete(self, request: Request, object_id: ObjectId, body: Nothing) -> wire.ObjectView:
        """Take what was uploaded as the object's content, for good."""
        return wire.object_view(await self._objects.complete(params.account_id(request), object_id))

    async def retrieve(self, request: Request, object_id: ObjectId) -> wire.ObjectView:
        """The object as it is now; a deleted one says that it is."""
        return wire.object_view(await self._objects.get(params.account_id(request), object_id))

    async def list(
        self,
        request: Request,
        content_type: wire.Kind | None = None,
        name: Part = None,
        search: Search = None,
        state: wire.State | None = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> wire.ObjectListView:
        """Objects of the account, newest first; deleted ones when `state` asks for them."""
        which = model.ObjectFilter(
            name=name,
            search=search,
            content_type=model.ContentType(content_type) if content_type else None,
            state=model.ObjectState(state) if state else None,
        )
        page = await self._objects.list(
            params.account_id(request), which, limit=limit, starting_after=starting_after, count=include_total_count
        )
        shown = [wire.object_view(found) for found in page.items]
        return wire.ObjectListView(objects=shown, has_more=page.has_more, total_count=page.total)

    async def list_public(
        self,
        request: Request,
        content_type: wire.Kind | None = None,
        name: Part = None,
        search: Search = None,
        state: wire.State | None = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> wire.ObjectListView:
        """Objects that are everybody's: this server has none."""
        if starting_after is not None:
            raise errors.Invalid(f"cannot list objects: starting_after: there is no public object {starting_after}")
        return wire.ObjectListView(objects=[], has_more=False, total_count=0 if include_total_count else None)

    async def download(
        self,
        request: Request,
        object_id: ObjectId,
        duration_seconds: Annotated[int, Query(ge=1, le=MAX_DOWNLOAD_S)] = DOWNLOAD_S,
    ) -> wire.ObjectDownloadView:
        """Where the content can be fetched without a key, for `duration_seconds`."""
        account_id, base = params.account_id(request), self._base(request)
        url = await self._objects.download_url(account_id, object_id, base, duration_seconds)
        return wire.ObjectDownloadView(download_url=url)

    async def delete(self, request: Request, object_id: ObjectId, body: Nothing) -> wire.ObjectView:
        """Delete an object. Its row can still be read."""
        return wire.object_view(await self._objects.delete(params.account_id(request), object_id))

    async def metadata_keys(self, request: Request) -> wire.ObjectKeysView:
        """Metadata keys that objects of the account have."""
        return wire.ObjectKeysView(keys=await self._objects.metadata_keys(params.account_id(request)))

    async def metadata_values(self, request: Request, key: MetadataKey) -> wire.ObjectValuesView:
        """What objects of the account have as the value of a metadata key."""
        values = await self._objects.metadata_values(params.account_id(request), key)
        return wire.ObjectValuesView(key=key, values=values)

    async def put_content(self, request: Request, object_id: ObjectId, token: Token) -> dict[str, Any]:
        """Send the content of an object, to the address that its creation told."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._objects.limit:
            raise errors.TooLarge(f"cannot upload object: it is over {self._objects.limit} bytes")
        await self._objects.receive(object_id, token, _body(request))
        return {}

    async def get_content(self, request: Request, object_id: ObjectId, token: Token) -> Response:
        """Fetch the content of an object, whole or in ranges, from an address that `download` told."""
        found, path = await self._objects.sent(object_id, token)
        return _Sent(path, found.name)

    def _base(self, request: Request) -> str:
        """The server's address as its settings have it, or else as the caller has it."""
        return self._url or f"{request.url.scheme}://{request.url.netloc}"


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises errors.TimedOut when nothing does, ClientDisconnect when it breaks off."""
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise errors.TimedOut(f"cannot upload object: nothing came for {SILENCE_S:g} s") from None
        if chunk:
            yield chunk


class _Sent(FileResponse):
    """A file, or the ranges of it that are asked for, for no browser to show.

    A client that does not read for a while is dropped.
    """

    chunk_size = 1024 * 1024

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self.headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(FilePath(name).name, safe='')}"
        self.headers["x-content-type-options"] = "nosniff"
        self.headers["content-security-policy"] = "sandbox; default-src 'none'"
        self.headers["cache-control"] = "private, no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patient(message: Message) -> None:
            if (status := message.get("status", 200)) >= errors.Invalid.status:
                raise HTTPException(status, "the range that is asked for is not one of the content")
            try:
                async with asyncio.timeout(hold.SEND_S):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await super().__call__(scope, receive, patient)
