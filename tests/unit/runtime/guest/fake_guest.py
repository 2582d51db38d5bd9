"""A guest that says what a test tells it to: the hostile end of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(kind: int, body: object = b"", length: int | None = None) -> bytes:
    """A frame; a body that is not bytes becomes JSON. `length` lies about it."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack("<BI", kind, len(payload) if length is None else length) + payload


async def request_of(reader: asyncio.StreamReader) -> dict[str, object]:
    """Read the request frame."""
    kind, length = struct.unpack("<BI", await reader.readexactly(5))
    assert kind == 1
    loaded: dict[str, object] = json.loads(await reader.readexactly(length))
    return loaded


def says(*parts: bytes) -> Talk:
    """Take the request, answer with these bytes, and close."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"".join(parts))
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    return talk


@contextlib.asynccontextmanager
async def guest(path: Path, talk: Talk) -> AsyncIterator[asyncio.Server]:
    """Listen on `path` and have `talk` serve each connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()
        tasks.discard(task)

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield server
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
