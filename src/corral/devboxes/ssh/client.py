"""What copies bytes for a client needs to know of it, and the flow of one channel in both directions."""

from __future__ import annotations

import asyncio
from typing import Protocol

from asyncssh.channel import SSHChannel

from corral.runtime.contract import ByteStream


class Client(Protocol):
    """A connection, as commands and forwards see it."""

    async def takes(self) -> None:
        """Return when the client reads what it is sent, or is gone."""

    def touch(self) -> None:
        """Something was moved for the client: it is not idle."""


class Inbox:
    """What a client has sent on one channel and nobody has taken: a channel that holds much is not read."""

    #: Bytes over which the client must wait. SSH itself lets it send a window more.
    HIGH = 256 * 1024

    def __init__(self) -> None:
        self._channel: SSHChannel[bytes] | None = None
        self._waiting: list[bytes] = []
        self._size = 0
        self._over = False
        self._paused = False
        self._changed = asyncio.Event()

    def open(self, channel: SSHChannel[bytes]) -> None:
        """What comes, comes on this channel."""
        self._channel = channel

    def put(self, data: bytes) -> None:
        """The client has sent `data`."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size > self.HIGH and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()
        self._changed.set()

    def finish(self) -> None:
        """The client sends no more."""
        self._over = True
        self._changed.set()

    async def take(self) -> bytes:
        """All that has come, waiting for some; b"" at the end."""
        while not self._waiting and not self._over:
            self._changed.clear()
            await self._changed.wait()
        data, self._waiting, self._size = b"".join(self._waiting), [], 0
        if self._paused and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()
        return data


class Outlet:
    """The way to a client on one channel: it waits while the client, or the channel, has too much to take."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ready = asyncio.Event()
        self._ready.set()

    def pause(self) -> None:
        """The channel's window is used up."""
        self._ready.clear()

    def resume(self) -> None:
        """There is room again, or the channel is gone."""
        self._ready.set()

    async def ready(self) -> None:
        """Return when there is room."""
        while not self._ready.is_set():
            await self._ready.wait()
        await self._client.takes()
        self._client.touch()


class Flow:
    """What asyncssh tells a session about the bytes of its channel; a base of sessions, before asyncssh's own."""

    _channel: SSHChannel[bytes]

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = Inbox()
        self._outlet = Outlet(client)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._inbox.put(data)

    def eof_received(self) -> bool:
        self._inbox.finish()
        return True

    def pause_writing(self) -> None:
        self._outlet.pause()

    def resume_writing(self) -> None:
        self._outlet.resume()

    def _flow_from(self, channel: SSHChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = channel
        self._inbox.open(channel)

    def _flow_ends(self) -> None:
        """The channel is gone: nobody may wait for it."""
        self._outlet.resume()
        self._inbox.finish()

    async def _show(self, data: bytes, kind: int | None = None) -> None:
        """Send the client `data`, once it has room for it."""
        await self._outlet.ready()
        self._channel.write(data, kind)

    async def _pass_on(self, stream: ByteStream) -> None:
        """Write what the client sends to `stream`, to its end. Raises what `stream` does."""
        while data := await self._inbox.take():
            self._client.touch()
            await stream.write(data)
        await stream.finish()
