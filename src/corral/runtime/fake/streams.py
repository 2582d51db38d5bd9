"""The fake's connections: to a TCP port, and to the output of a command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from corral.runtime.contract import ByteStream
from corral.runtime.fake.execution import Execution
from corral.runtime.fake.viewers import Viewer


class TcpStream(ByteStream):
    """A connection to a port of the host's loopback, which stands for the box's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        # With no buffer of its own a write is with the kernel when it returns.
        writer.transport.set_write_buffer_limits(high=0)

    async def read(self, limit: int = 65536) -> bytes:
        try:
            return await self._reader.read(limit)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        if self._writer.transport.get_write_buffer_size():
            # A write was given up; its rest must not hold the close back.
            self._writer.transport.abort()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class OutputStream(ByteStream):
    """One viewer of a terminal or a pipe. `send` is the runtime's write to the command."""

    def __init__(self, execution: Execution, viewer: Viewer, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._execution, self._viewer, self._send = execution, viewer, send

    async def read(self, limit: int = 65536) -> bytes:
        return await self._viewer.take(limit)

    async def write(self, data: bytes) -> None:
        await self._send(data)

    async def finish(self) -> None:
        if self._execution.spec.terminal is None:
            self._execution.close_stdin()

    async def close(self) -> None:
        self._execution.unview(self._viewer)
        self._viewer.close()
