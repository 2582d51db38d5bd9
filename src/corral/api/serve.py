"""The listener: Granian inside the running loop, HTTP/1.1, HTTP/2 with prior knowledge and WebSockets on one port.

Owns the socket from bind to close, and the order of a graceful end: new connections refused, held requests told to
come back, short ones finished, the rest cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from corral.api.gate import Gate
from corral.core import errors

#: Seconds that requests which are at work get to end by themselves when the server stops.
GRACE_S: Final = 10.0

#: Seconds for connections to close after all requests have ended.
CLOSE_S: Final = 5.0

KIB: Final = 1024

#: A client with 1,000 long-polls holds them on one HTTP/2 connection. Windows bound what is read ahead of a handler.
_HTTP2: Final = HTTP2Settings(
    max_concurrent_streams=4096,
    max_headers_size=64 * KIB,
    initial_stream_window_size=1024 * KIB,
    initial_connection_window_size=4 * 1024 * KIB,
    max_send_buffer_size=400 * KIB,
    keep_alive_interval=30_000,
    keep_alive_timeout=20,
)


class Listener:
    """One port. `start` once, `stop` once."""

    def __init__(self, gate: Gate, host: str, port: int) -> None:
        self._gate = gate
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises errors.Unavailable when the address cannot be used."""
        _probe(self._host, self._port)
        self._server = Server(
            self._gate,
            address=self._host,
            port=self._port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=True,
            backlog=1024,
            # Requests in handlers at once; what is over it waits in the kernel. Long-polls count.
            backpressure=16_384,
            http1_settings=HTTP1Settings(),
            http2_settings=_HTTP2,
            log_enabled=True,
            # Its warnings are about itself, its notices about clients that left.
            log_level=LogLevels.error,
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(), name="http")
        await self._wait_until_open(self._serving)

    async def wait(self) -> None:
        """Return when the listener has ended. Raises what ended it."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuse new connections, end what is held, wait for what is at work, and close. Safe to call twice."""
        if self._server is None or self._serving is None:
            return
        self._server.stop()  # type: ignore[no-untyped-call]
        await self._gate.close(grace_s)
        with contextlib.suppress(TimeoutError):
            # The fallback is to leave connections that do not close to the end of the process.
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._serving)

    async def _wait_until_open(self, serving: asyncio.Task[None]) -> None:
        async with asyncio.timeout(10):
            while not serving.done():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(_reachable(self._host), self._port)
                    writer.close()
                    return
        await serving
        raise errors.Unavailable(f"cannot listen on {self._host}:{self._port}: the listener ended")


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _probe(host: str, port: int) -> None:
    """Find out what is wrong with the address before Granian does, which would only log it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "choose another with --listen" if error.errno == errno.EADDRINUSE else "check --listen"
            raise errors.Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", remedy=remedy) from error
