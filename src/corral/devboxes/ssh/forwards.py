"""`ssh -L`: a channel of a client joined to a port on the loopback of its devbox.

Must not decide which port may be reached: `connection` has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import asyncssh

from corral.core import errors
from corral.core.tasks import TaskOwner
from corral.devboxes.ssh.client import Client, Flow
from corral.runtime.contract import ByteStream, RuntimeFailure


class Forward(Flow, asyncssh.SSHTCPSession[bytes]):
    """One forwarded connection. `on_end` is called once, when it is over."""

    def __init__(self, client: Client, tasks: TaskOwner, stream: ByteStream, on_end: Callable[[], None]) -> None:
        super().__init__(client)
        self._tasks = tasks
        self._stream = stream
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._flow_from(chan)

    def session_started(self) -> None:
        self._task = self._tasks.spawn(self._run(), name="ssh forward")

    def connection_lost(self, exc: Exception | None) -> None:
        self._flow_ends()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        up = asyncio.ensure_future(self._to_port())
        try:
            with contextlib.suppress(RuntimeFailure, errors.CorralError):  # the devbox ended: so does the connection
                while data := await self._stream.read():
                    await self._show(data)
            self._channel.write_eof()
            await up
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            await self._stream.close()
            self._channel.close()
            self._on_end()

    async def _to_port(self) -> None:
        with contextlib.suppress(RuntimeFailure, errors.CorralError, ConnectionError):  # nobody reads there any more
            await self._pass_on(self._stream)
