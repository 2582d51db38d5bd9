"""File readers, terminals and forwarded connections over a channel.

Owns no buffer beyond one chunk: what the consumer does not take stays in the socket, and the guest waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from corral.runtime.contract import BoxGone, ByteStream, FileInfo, FileReader
from corral.runtime.guest import protocol
from corral.runtime.guest.channel import Channel, limited


class GuestFile(FileReader):
    """A file of a box, read once, in chunks as they come from the socket.

    At most `most` bytes of it. The guest has `stall_s` seconds for the next byte when the reader wants one.
    """

    def __init__(self, channel: Channel, info: FileInfo, most: int | None, stall_s: float) -> None:
        self._channel = channel
        self.info = info
        self._room = most
        self._stall_s = stall_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        channel = self._channel
        try:
            while True:
                async with limited(self._stall_s, channel.doing):
                    kind, payload = await channel.expect(protocol.DATA, protocol.END)
                if kind == protocol.END:
                    return
                left = int.from_bytes(payload, "little")
                self._count(left)
                while left:
                    async with limited(self._stall_s, channel.doing):
                        chunk = await channel.some(left)
                    if not chunk:
                        raise channel.gone()
                    left -= len(chunk)
                    yield chunk
        finally:
            await channel.close()

    def _count(self, coming: int) -> None:
        if self._room is not None:
            if coming > self._room:
                raise self._channel.nonsense("more than it was asked for")
            self._room -= coming

    async def close(self) -> None:
        await self._channel.close()


class Attached(ByteStream):
    """The terminal of an execution, or one of its pipes: data frames both ways.

    `passed` is how many bytes of a pipe went to its file before and are not sent here.
    """

    def __init__(self, channel: Channel, passed: int = 0) -> None:
        self._channel = channel
        self.passed = passed
        self._left = 0  # bytes of the present frame not yet read
        self._ended = False

    async def read(self, limit: int = 65536) -> bytes:
        if not self._left and (self._ended or not await self._next_frame()):
            self._ended = True
            return b""
        chunk = await self._channel.some(min(limit, self._left))
        if not chunk:
            self._ended, self._left = True, 0
        self._left -= len(chunk)
        return chunk

    async def _next_frame(self) -> bool:
        # A guest that goes while the terminal is quiet has ended it, as the end frame does.
        frame = await self._channel.next_of(protocol.DATA, protocol.END)
        if frame is None or frame[0] == protocol.END:
            return False
        self._left = int.from_bytes(frame[1], "little")
        return True

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), protocol.MAX_DATA):
            await self._channel.send_data(view[start : start + protocol.MAX_DATA])

    async def finish(self) -> None:
        await self._channel.send_end()

    async def close(self) -> None:
        await self._channel.close()


class PortStream(ByteStream):
    """A TCP connection inside a box: bytes as they are."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def read(self, limit: int = 65536) -> bytes:
        return await self._channel.some(limit)

    async def write(self, data: bytes) -> None:
        await self._channel.send_raw(data)

    async def finish(self) -> None:
        try:
            self._channel.shut_writing()
        except OSError:
            raise BoxGone(f"cannot {self._channel.doing}: the connection is closed") from None

    async def close(self) -> None:
        await self._channel.close()
