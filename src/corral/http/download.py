"""Sending a file to the client as it is read, at the client's speed.

Owns Content-Length, Content-Disposition and what happens when the file or the client ends early.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import AsyncIterator
from typing import Protocol
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from corral.core import errors
from corral.http import hold


class Reader(Protocol):
    """What is sent: an open file, iterated in chunks and closed at the end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


class Download(Response):
    """Sends `reader` as `application/octet-stream`, at most `size` bytes, and closes it.

    A size of 0 may be a file of /proc, which has content all the same: it is sent without Content-Length.
    A file that turns out shorter than `size` breaks the connection off, so that the client sees that it is incomplete.
    """

    media_type = "application/octet-stream"

    def __init__(self, reader: Reader, *, path: str, size: int) -> None:
        self.status_code = 200
        self.background = None
        self._reader = reader
        self._size = size
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(posixpath.basename(path), safe='')}"}
        if size:
            headers["content-length"] = str(size)
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send(receive, send)
        except ClientDisconnect:
            return
        finally:
            await self._reader.close()

    async def _send(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        chunks = hold.held(aiter(self._reader), receive, None, None)
        sent = 0
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if isinstance(chunk, hold.Tick):
                    continue
                part = chunk[: self._size - sent] if self._size else chunk
                sent += len(part)
                await hold.deliver(send, bytes(part))
                if self._size and sent >= self._size:
                    break
        if sent < self._size:
            raise errors.Internal(f"cannot send file: it ended after {sent} of {self._size} bytes")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
