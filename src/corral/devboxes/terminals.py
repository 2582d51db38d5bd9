"""A terminal over a WebSocket: bytes both ways until one side ends.

Owns the frames and the close codes. Nothing is buffered here: a viewer that does not read holds its stream back, and
the guest drops it. Must not know whose terminal it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from corral.core import errors
from corral.http import hold
from corral.runtime.contract import ByteStream, TerminalSize

#: Close code of a terminal whose program has ended, as in the dialect's terminals.
ENDED: Final = 4000
BAD_FRAME: Final = 1008
TOO_LARGE: Final = 1009
RESTARTING: Final = 1012
#: For a viewer that did not take its output: it may come back, and is shown what is recent.
TOO_SLOW: Final = 1013
CLOSE_S: Final = 1.0

#: Seconds for which a viewer may leave what is sent to it unread, beside what the kernel holds for it.
SLOW_S: Final = 10.0

#: Bytes of one frame: more than anybody types or pastes at once.
LONGEST_FRAME: Final = 1024 * 1024

#: Seconds between the end of a terminal and the record of it, at most.
RECORD_S: Final = 5.0

#: What to do with a text frame; None for one that is typed input. Raises errors.Invalid.
OnText = Callable[[str], Awaitable[None]]


async def nothing_typed(_text: str) -> None:
    """For viewers that only look on."""
    raise errors.Invalid("cannot write to terminal: this connection is read-only")


def sizes(resize: Callable[[TerminalSize], Awaitable[None]]) -> OnText:
    """For viewers whose text frames `{"cols": n, "rows": n}` set the size."""

    async def on_text(text: str) -> None:
        await resize(_size(text))

    return on_text


class Link:
    """One viewer's connection. `ended` says whether the terminal's command has; `on_text` None: text is typed, too."""

    def __init__(
        self, websocket: WebSocket, ended: Callable[[], Awaitable[bool]], on_text: OnText | None = None
    ) -> None:
        self._websocket = websocket
        self._ended = ended
        self._on_text = on_text

    async def couple(self, stream: ByteStream) -> None:
        """Copy both ways until one side ends; then end the other."""
        down = asyncio.ensure_future(self._to_client(stream))
        up = asyncio.ensure_future(self._from_client(stream))
        stopping = hold.drain_of(self._websocket).future()
        try:
            await asyncio.wait((down, up, stopping), return_when=asyncio.FIRST_COMPLETED)
            left = not up.done()
            await hold.end(up)  # Granian's close does not return while a receive is waiting
            if down.done() and not down.cancelled() and down.exception() is None:
                await self._close(ENDED if await self._ended() else TOO_SLOW)
            elif down.done() and not down.cancelled() and isinstance(down.exception(), errors.TimedOut):
                await self._close(TOO_SLOW)
            elif up.done() and not up.cancelled() and isinstance(up.exception(), errors.CorralError):
                problem = up.exception()
                code = TOO_LARGE if isinstance(problem, errors.TooLarge) else BAD_FRAME
                if isinstance(problem, errors.WrongState) and await self._ended():
                    code = ENDED  # it ended while somebody typed
                await self._close(code, str(problem)[:100])
            elif left:
                # The server restarts: come back. When it is not sent any more, a lost connection says the same.
                await self._close(RESTARTING)
        finally:
            await hold.end(down, up)

    async def _close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._websocket.close(code, reason)

    async def _to_client(self, stream: ByteStream) -> None:
        while data := await stream.read():
            try:
                async with asyncio.timeout(SLOW_S):
                    await self._websocket.send_bytes(data)
            except TimeoutError:
                raise errors.TimedOut("cannot show terminal: the viewer does not read") from None

    async def _from_client(self, stream: ByteStream) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            data, text = message.get("bytes"), message.get("text")
            if len(data or text or "") > LONGEST_FRAME:
                raise errors.TooLarge(f"cannot write to terminal: a frame is over {LONGEST_FRAME} bytes")
            if data is not None and self._on_text is nothing_typed:
                await nothing_typed("")
            elif data is not None:
                await stream.write(data)
            elif text is not None and self._on_text is not None:
                await self._on_text(text)
            elif text is not None:
                await stream.write(text.encode())


def _size(text: str) -> TerminalSize:
    try:
        frame = json.loads(text)
        cols, rows = frame["cols"], frame["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise errors.Invalid('cannot resize terminal: send {"cols": 80, "rows": 24}') from None
    if not all(type(cells) is int and 1 <= cells <= 1000 for cells in (cols, rows)):
        raise errors.Invalid("cannot resize terminal: cols and rows must be 1 to 1000")
    return TerminalSize(rows=rows, cols=cols)
