"""A terminal in a devbox over a WebSocket: bytes both ways, its size, the exit code at its end."""

from __future__ import annotations

import contextlib
import json
from types import TracebackType
from typing import TYPE_CHECKING

from corral_sdk import _config, errors
from corral_sdk._async.execution import AsyncExecution, exit_code_of
from corral_sdk._async.transport import AsyncTransport, Call
from corral_sdk.models import ExecutionInfo, TerminalSize

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.exceptions import ConnectionClosed
#: Close code of the server for a command that has ended.
ENDED = 4000
#: Bytes of one message; the server sends at most 64 KiB at a time.
LONGEST_MESSAGE = 1024 * 1024
CONNECT_S = 10.0
#: Seconds between the end of a terminal and the record of its exit code.
RECORD_S = 15.0


class AsyncTerminal:
    """A command on a terminal. Entering the block starts it, leaving it detaches: the command goes on.

        async with devbox.terminal() as terminal:
            await terminal.write(b"exit 3\\n")
            while data := await terminal.read():
                ...
            print(await terminal.exit_code())

    With `execution_id` it attaches to one that was started before, and shows its recent output first. With `session`
    it is the login shell of that name, which is started if there is none. With `read_only` it only looks on.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        devbox_id: str,
        command: str | None,
        size: TerminalSize,
        execution_id: str | None = None,
        *,
        session: str | None = None,
        read_only: bool = False,
    ) -> None:
        self._transport = transport
        self._path = f"/v1/devboxes/{devbox_id}"
        self._command = command
        self._size = size
        self._execution_id = execution_id
        self._session = session
        self._read_only = read_only
        self._execution: AsyncExecution | None = None
        self._connection = contextlib.AsyncExitStack()
        self._socket: ClientConnection | None = None
        self._closed: type[ConnectionClosed]
        self._record: bytes | None = None

    async def __aenter__(self) -> AsyncTerminal:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.detach()

    @property
    def execution(self) -> AsyncExecution:
        """The command. Raises WrongState before it was started."""
        if self._execution is None:
            raise errors.WrongState("cannot use terminal: it was not opened")
        return self._execution

    async def open(self) -> None:
        """Start the command, unless it runs already, and connect to it.

        Called again after a lost connection it attaches to the same command. Raises NotFound, WrongState, Unreachable.
        """
        await self.detach()
        if self._execution is None:
            self._execution = AsyncExecution(self._transport, ExecutionInfo.from_wire(await self._begin()))
        try:
            self._socket = await self._connect(self._execution.id)
        except errors.WrongState:
            if not (await self._execution.refresh()).completed:
                raise
            # It ended before anyone could connect, as short commands do: what it wrote is on record.
            self._record = (await self._execution.text("stdout")).encode()
        else:
            if not self._read_only:
                await self.resize(self._size)

    async def _begin(self) -> dict[str, object]:
        if self._execution_id is not None:
            return await self._transport.json(Call("GET", f"{self._path}/executions/{self._execution_id}"))
        body: dict[str, object] = {}
        if not self._read_only:
            body |= {"rows": self._size.rows, "cols": self._size.cols}
        if self._session is not None:
            body["session"] = self._session
        if self._command is not None:
            body["command"] = self._command
        return await self._transport.json(Call("POST", f"{self._path}/terminal", json=body))

    async def detach(self) -> None:
        """Disconnect; the command goes on. Safe to call twice."""
        self._socket = None
        await self._connection.aclose()

    async def read(self) -> bytes:
        """Return the next bytes for the screen; b"" once the command has ended. Raises Unreachable."""
        if self._record is not None:
            rest, self._record = self._record, b""
            return rest
        socket, closed = self._connected()
        try:
            data = await socket.recv()
        except closed as error:
            if has_ended(error):
                return b""
            raise errors.Unreachable("cannot read from terminal: the connection was lost") from error
        return data if isinstance(data, bytes) else data.encode()

    async def write(self, data: bytes) -> None:
        """Send what was typed. Raises Unreachable, WrongState when the terminal is read-only."""
        if self._read_only:
            raise errors.WrongState("cannot write to terminal: it is open for looking on only")
        await self._send(data)

    async def resize(self, size: TerminalSize) -> None:
        """Tell the command how large its screen is. Raises Unreachable."""
        self._size = size
        if self._read_only:
            raise errors.WrongState("cannot resize terminal: it is open for looking on only")
        await self._send(json.dumps({"rows": size.rows, "cols": size.cols}))

    async def exit_code(self) -> int:
        """Wait for the end of the command and return its exit code."""
        return exit_code_of(await self.execution.wait(RECORD_S))

    async def _send(self, data: bytes | str) -> None:
        if self._record is not None:
            return  # the command has ended, which `read` tells
        socket, closed = self._connected()
        try:
            await socket.send(data)
        except closed as error:
            if not has_ended(error):  # otherwise nobody is there to read it, which `read` tells
                raise errors.Unreachable("cannot write to terminal: the connection was lost") from error

    def _connected(self) -> tuple[ClientConnection, type[ConnectionClosed]]:
        if self._socket is None:
            raise errors.WrongState("cannot use terminal: it is not connected")
        return self._socket, self._closed

    async def _connect(self, execution_id: str) -> ClientConnection:
        # Loading the library takes 20 ms, which only those who open terminals shall pay.
        from websockets import exceptions  # noqa: PLC0415
        from websockets.asyncio import client  # noqa: PLC0415

        self._closed = exceptions.ConnectionClosed
        base = self._transport.base_url
        query = "?read_only=true" if self._read_only else ""
        try:
            connecting = client.connect(
                f"ws{base.removeprefix('http')}{self._path}/executions/{execution_id}/attach{query}",
                additional_headers={"Authorization": f"Bearer {self._transport.api_key}"},
                compression=None,
                max_size=LONGEST_MESSAGE,
                open_timeout=CONNECT_S,
                proxy=None if _config.is_loopback(base) else True,
            )
            return await self._connection.enter_async_context(connecting)
        except exceptions.InvalidStatus as error:
            raise refusal(error.response.status_code, error.response.body) from error
        except (OSError, exceptions.WebSocketException) as error:
            raise errors.Unreachable(f"cannot reach terminal at {base}: {error}") from error


def has_ended(error: ConnectionClosed) -> bool:
    """Whether the server closed the connection because the command has ended."""
    return error.rcvd is not None and error.rcvd.code == ENDED


def refusal(status: int, body: bytes | bytearray | None) -> errors.CorralError:
    """Return the error with which the server answered in place of a terminal."""
    try:
        return errors.from_wire(status, json.loads(body or b""))
    except ValueError:
        return errors.from_wire(status, None)
