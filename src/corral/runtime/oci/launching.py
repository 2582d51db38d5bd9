"""The server's end of the launcher: starts the process, sends requests, hands out answers.

Must not make plans or touch boxes. The process is started again when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import corral
from corral.runtime.contract import HostUnfit
from corral.runtime.oci import wire

STOP_LIMIT_S: Final = 15.0
MODULE: Final = "corral.runtime.oci.launcher"


class LauncherEnded(HostUnfit):
    """The launcher ended before it answered."""


class LauncherClient:
    """One launcher process. It holds the descriptors of `inherit`; `ended` is called when it is gone early."""

    def __init__(self, keep: Sequence[Path], inherit: Callable[[], Sequence[int]], ended: Callable[[], None]) -> None:
        self._keep = [str(path.resolve()) for path in keep]
        self._inherit = inherit
        self._ended = ended
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[wire.Message]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()

    async def request(self, op: str, limit_s: float, **fields: object) -> wire.Message:
        """Send a request and wait for its answer. Raises TimeoutError, LauncherEnded."""
        writer = await self._connected()
        number = next(self._numbers)
        future: asyncio.Future[wire.Message] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            writer.write(wire.encode({"id": number, "op": op, **fields}))
            async with asyncio.timeout(limit_s):
                return await future
        finally:
            self._pending.pop(number, None)

    def tell(self, op: str, **fields: object) -> None:
        """Send a request that has no answer; without effect when there is no launcher."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.encode({"id": 0, "op": op, **fields}))

    async def start(self) -> None:
        """Start the process, if it does not run."""
        await self._connected()

    async def close(self) -> None:
        """End the process: it kills what is half-made, and leaves boxes alone. Waits until it is gone."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        if self._process is not None:
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            self._process = None
        self._fail()

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._starting:
            if self._writer is not None:
                return self._writer
            here, there = socket.socketpair()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    MODULE,
                    str(there.fileno()),
                    *self._keep,
                    pass_fds=(there.fileno(), *self._inherit()),
                    env={**os.environ, "PYTHONPATH": str(Path(corral.__file__).parents[1])},
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except BaseException:
                here.close()
                raise
            finally:
                there.close()
            reader, self._writer = await asyncio.open_connection(sock=here)
            self._listener = asyncio.create_task(self._listen(reader, self._process), name="launcher")
            return self._writer

    async def _listen(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        decoder = wire.Decoder()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for message in decoder.feed(data):
                    future = self._pending.get(message.get("id", 0))
                    if future is not None and not future.done():
                        future.set_result(message)
        await process.wait()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._fail()
        self._ended()

    def _fail(self) -> None:
        for future in self._pending.values():
            if not future.done():
                message = "cannot start boxes: the launcher ended"
                future.set_exception(LauncherEnded(message, remedy="see the server's log for its last words"))
