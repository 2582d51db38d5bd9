"""One connection to a guest: frames both ways, over non-blocking system calls, with limits on what is taken in.

Owns the socket, and that a guest which never stops sending leaves others their turn. Must not know operations: it
moves frames. `loop.sock_*` rather than streams: a gibibyte takes a third less processor time, and back-pressure is the
socket's own.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from corral.core.clock import Clock
from corral.runtime.contract import BadCommand, BoxGone, BoxUnresponsive, HostExhausted
from corral.runtime.guest import faults, protocol, sockets

#: While the guest's queue of connections is full, try again this often.
_RETRY_S: Final = 0.005

#: One control frame and what follows it, in one system call.
_GULP: Final = 65_536

#: Bytes of frames after which other tasks have their turn. `sock_recv` does not wait while there is something to take,
#: so a guest that sends faster than it is read would have the loop for itself, its own time limit included.
_TURN: Final = 131_072

#: What a frame counts for beside its bytes: small ones cost their handling. Of raw bytes eight count as one.
_FRAME_COST: Final = 1024
_RAW_SHARE: Final = 8

#: What connect(2) answers when nobody listens there any more.
_NOBODY: Final = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class Channel:
    """A connection that carries one request. `doing` begins every error: `cannot <doing>: …`."""

    def __init__(self, sock: socket.socket, path: Path, doing: str, clock: Clock) -> None:
        self._sock = sock
        self._path = path
        self.doing = doing
        self._clock = clock
        self._op = ""
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()  # received, not yet asked for; taking from its front moves no bytes
        self._cost = 0  # since others had their turn
        self._pending = 0  # waits on the socket under way
        self._quiet: asyncio.Future[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, doing: str, clock: Clock) -> Channel:
        """Connect to the guest that listens on `path`. The caller limits the wait.

        Raises BoxGone, and HostExhausted when this process has no descriptor or memory left.
        """
        while True:
            try:
                return cls(sockets.connect(path), path, doing, clock)
            except BlockingIOError:
                await clock.sleep(_RETRY_S)
            except _NOBODY:
                raise BoxGone(f"cannot {doing}: the box's guest is no more") from None
            except OSError as error:
                raise HostExhausted(f"cannot {doing}: {(error.strerror or 'no connection').lower()}") from error

    # -- sending

    async def request(self, body: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send the request frame; `fds` travel with its first byte. Raises BadCommand when it is too long.

        The errors that `body["op"]` can have are the ones that are believed from here on.
        """
        self._op = str(body["op"])
        payload = json.dumps(body).encode("ascii")
        if len(payload) > protocol.MAX_REQUEST:
            raise BadCommand(f"cannot {self.doing}: {faults.COMMAND['too-long']}")
        data = memoryview(protocol.HEADER.pack(protocol.REQUEST, len(payload)) + payload)
        # A fresh socket's buffer is empty, so this takes at least the first byte, and with it the descriptors.
        try:
            sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
        except ConnectionError:
            raise self.gone() from None
        await self._send_rest(data[sent:])

    async def send_data(self, chunk: memoryview) -> None:
        """Send one data frame, waiting while the guest is slow."""
        header = protocol.HEADER.pack(protocol.DATA, len(chunk))
        try:
            sent = self._sock.sendmsg([header, chunk])
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            raise self.gone() from None
        if sent < len(header):
            await self._send_rest(memoryview(header)[sent:])
            sent = len(header)
        await self._send_rest(chunk[sent - len(header) :])

    async def send_end(self) -> None:
        """Send the end frame."""
        await self._send_rest(memoryview(protocol.HEADER.pack(protocol.END, 0)))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes without a frame."""
        await self._send_rest(memoryview(data))

    async def _send_rest(self, data: memoryview) -> None:
        if not data:
            return
        with self._waiting():
            try:
                await self._loop.sock_sendall(self._sock, data)
            except (ConnectionError, OSError) as error:
                raise self.gone() from error

    # -- receiving

    async def receive(self) -> tuple[int, bytes] | None:
        """Return the next control frame as (kind, payload), None when the guest has closed the connection.

        Not for frames of data: their payload is left in the stream, and (DATA, length as 4 bytes) returned.
        """
        header = await self._exactly(protocol.HEADER.size)
        if header is None:
            return None
        kind, length = protocol.HEADER.unpack(header)
        if kind == protocol.DATA:
            await self._give_way(_FRAME_COST)
            if not 0 < length <= protocol.MAX_DATA:
                raise self.nonsense(f"a data frame of {length} bytes")
            return kind, header[1:]
        if kind not in {protocol.REPLY, protocol.ERROR, protocol.EVENT, protocol.END}:
            raise self.nonsense(f"a frame of kind {kind}")
        if length > protocol.MAX_ANSWER:
            raise self.nonsense(f"a frame of {length} bytes")
        await self._give_way(_FRAME_COST + length)
        payload = await self._exactly(length) if length else b""
        return None if payload is None else (kind, payload)

    async def expect(self, *kinds: int) -> tuple[int, bytes]:
        """Return the next frame, which must be of one of `kinds`; raise what an error frame says."""
        frame = await self.next_of(*kinds)
        if frame is None:
            raise self.gone()
        return frame

    async def next_of(self, *kinds: int) -> tuple[int, bytes] | None:
        """Do as `expect`, but return None when the guest has closed the connection."""
        frame = await self.receive()
        if frame is None:
            return None
        kind, payload = frame
        if kind == protocol.ERROR:
            raise faults.of_operation(self._op, payload, self.doing)
        if kind not in kinds:
            raise self.nonsense(f"a frame of kind {kind} out of turn")
        return frame

    async def reply(self) -> bytes:
        """Return the payload of the reply frame."""
        return (await self.expect(protocol.REPLY))[1]

    async def some(self, limit: int) -> bytes:
        """Return the next 1..limit bytes as they came; b"" when the guest has closed the connection."""
        taken = self._take(limit) if self._held else await self._recv(limit)
        await self._give_way(len(taken) // _RAW_SHARE + _FRAME_COST // 2)
        return taken

    async def _exactly(self, count: int) -> bytes | None:
        while len(self._held) < count:
            more = await self._recv(max(_GULP, count - len(self._held)))
            if not more:
                return None
            self._held += more
        return self._take(count)

    def _take(self, most: int) -> bytes:
        with memoryview(self._held) as view:
            taken = bytes(view[:most])
        del self._held[: len(taken)]
        return taken

    async def _give_way(self, cost: int) -> None:
        self._cost += cost
        if self._cost >= _TURN:
            self._cost = 0
            await self._clock.sleep(0)

    async def _recv(self, limit: int) -> bytes:
        with self._waiting():
            if self._closed:
                return b""
            try:
                return await self._loop.sock_recv(self._sock, limit)
            except ConnectionError:
                return b""

    # -- ending

    def gone(self) -> BoxGone | BoxUnresponsive:
        """Return the error for a connection that broke: gone when nobody listens any more."""
        try:
            sockets.connect(self._path).close()
        except BlockingIOError:
            return BoxUnresponsive(f"cannot {self.doing}: the guest takes no connections")
        except _NOBODY:
            return BoxGone(f"cannot {self.doing}: the box ended")
        except OSError:  # this process has no descriptor left, which says nothing of the box
            return BoxUnresponsive(f"cannot {self.doing}: the connection broke")
        return BoxUnresponsive(f"cannot {self.doing}: the guest closed the connection")

    def nonsense(self, what: str) -> BoxUnresponsive:
        """Return the error for something that no guest of ours sends."""
        return BoxUnresponsive(f"cannot {self.doing}: the guest sent {what}")

    def shut_writing(self) -> None:
        """Tell the guest that nothing more comes."""
        self._sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Close the connection; a read or write that waits in another task ends first. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._pending:
            # Closing a descriptor that the loop watches would leave the watch on a number that is soon another's.
            self._shut()
            self._quiet = self._loop.create_future()
            await self._quiet
        self._sock.close()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the guest was faster

    def _waiting(self) -> _Waiting:
        return _Waiting(self)

    def _enter(self) -> None:
        self._pending += 1

    def _leave(self) -> None:
        self._pending -= 1
        if not self._pending and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)


class _Waiting:
    """Counts a wait on the socket, so that closing can be put off until it has ended."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        self._channel._enter()  # noqa: SLF001 - a part of Channel; contextlib's generator costs 1 µs each

    def __exit__(self, *_: object) -> None:
        self._channel._leave()  # noqa: SLF001 - as above


@asynccontextmanager
async def limited(seconds: float, doing: str) -> AsyncIterator[None]:
    """Let the body take `seconds`, then raise BoxUnresponsive."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BoxUnresponsive(f"cannot {doing}: the guest did not answer within {seconds:g} s") from None
