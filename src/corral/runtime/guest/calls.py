"""One call to a guest: a connection is opened, carries one request and its answer, and is closed.

Owns the shapes that calls have: one reply, rows, events, bytes sent after the request; and that a call which fails
leaves no connection open. Must not know operations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from corral.core.clock import Clock, SystemClock
from corral.runtime.contract import RuntimeFailure
from corral.runtime.guest import protocol
from corral.runtime.guest.channel import Channel, limited
from corral.runtime.guest.fields import Fields, Row
from corral.runtime.guest.follow import Following

#: Answers that cost the guest nothing but its turn.
QUICK_S: Final = 10.0

_T = TypeVar("_T")


class Calls:
    """What a client makes its operations of. Keeps no state between calls.

    `doing` begins every error: `cannot <doing>: …`.
    """

    def __init__(self, socket_path: Path, *, clock: Clock | None = None) -> None:
        self._path = Path(socket_path)
        self._clock = clock or SystemClock()

    @asynccontextmanager
    async def _channel(self, doing: str) -> AsyncIterator[Channel]:
        """Open a connection for as long as the block lasts. The block sends the request, and limits its waits."""
        async with limited(QUICK_S, doing):
            channel = await Channel.open(self._path, doing, self._clock)
        try:
            yield channel
        finally:
            await channel.close()

    async def _ask(self, request: Mapping[str, object], doing: str, timeout_s: float) -> Fields:
        """Send a request; return the reply to it, which is all of the answer."""
        channel, reply = await self._start(request, doing, (), timeout_s)
        await channel.close()
        return Fields(reply, doing)

    async def _open(self, request: Mapping[str, object], doing: str, timeout_s: float) -> Channel:
        """Send a request; return the channel, for its caller to close, once the guest has agreed."""
        return (await self._start(request, doing, (), timeout_s))[0]

    async def _follow(
        self, request: Mapping[str, object], doing: str, fds: tuple[int, ...], timeout_s: float
    ) -> Following:
        """Send a request about an execution; return the events that come after the reply."""
        channel, reply = await self._start(request, doing, fds, timeout_s)
        try:
            return Following(channel, reply, self._clock)
        except BaseException:
            await channel.close()
            raise

    async def _start(
        self, request: Mapping[str, object], doing: str, fds: tuple[int, ...], timeout_s: float
    ) -> tuple[Channel, bytes]:
        """Send a request; return the open channel, for its caller to close, and the reply to it."""
        async with limited(timeout_s, doing):
            channel = await Channel.open(self._path, doing, self._clock)
            try:
                await channel.request(request, fds)
                return channel, await channel.reply()
            except BaseException:
                await channel.close()
                raise

    async def _rows(
        self,
        request: Mapping[str, object],
        doing: str,
        width: int,
        most: int,
        timeout_s: float,
        make: Callable[[str, Row], _T],
    ) -> list[_T]:
        """Return what `make` makes of the path in the reply ("" without one) and each row of the events.

        Made as the rows come: a row keeps all that its frame had, which is more than belongs in it when a guest lies.
        """
        found: list[_T] = []
        async with limited(timeout_s, doing), self._channel(doing) as channel:
            await channel.request(request)
            reply = Fields(await channel.reply(), doing)
            path = reply.text("path", protocol.MAX_PATH) if reply.has("path") else ""
            while (frame := await channel.expect(protocol.EVENT, protocol.END))[0] != protocol.END:
                rows = Fields(frame[1], doing).rows("rows", width, most - len(found))
                if not rows:
                    raise channel.nonsense("an event without rows")
                found += [make(path, row) for row in rows]
        return found

    async def _upload(self, channel: Channel, view: memoryview) -> None:
        """Send bytes after a request. Raises what the guest says when it will not have them."""
        for start in range(0, len(view), protocol.MAX_DATA):
            try:
                await channel.send_data(view[start : start + protocol.MAX_DATA])
            except RuntimeFailure as broken:
                raise await self._cause(channel, broken) from None

    async def _finish_upload(self, channel: Channel) -> bytes:
        """Send the end of the bytes; return the reply to all of it."""
        try:
            await channel.send_end()
        except RuntimeFailure as broken:
            raise await self._cause(channel, broken) from None
        return await channel.reply()

    async def _cause(self, channel: Channel, broken: RuntimeFailure) -> RuntimeFailure:
        """Return why the guest stopped reading: its error frame waits in the socket behind the broken write."""
        try:
            await channel.expect()
        except RuntimeFailure as error:
            return error
        return broken
