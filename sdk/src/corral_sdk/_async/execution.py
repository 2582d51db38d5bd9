"""A command in a devbox: its output as it comes, its end, its input, and killing it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Protocol

import httpx

from corral_sdk import _sse, errors
from corral_sdk._async import concurrency, stream
from corral_sdk._async.transport import AsyncTransport, Call
from corral_sdk.models import Chunk, ExecResult, ExecutionInfo, Stream

#: Seconds that the server holds a wait before it answers that nothing happened.
HOLD_S = 25


class AsyncExecution:
    """A command that was started. `info` is what the server last said about it."""

    def __init__(self, transport: AsyncTransport, info: ExecutionInfo) -> None:
        self._transport = transport
        self.info = info
        self._path = f"/v1/devboxes/{info.devbox_id}/executions/{info.id}"

    @property
    def id(self) -> str:
        """Its id, unique in its devbox."""
        return self.info.id

    async def refresh(self) -> ExecutionInfo:
        """Ask the server how it stands."""
        self.info = ExecutionInfo.from_wire(await self._transport.json(Call("GET", self._path)))
        return self.info

    async def wait(self, timeout_s: float | None = None) -> ExecutionInfo:
        """Return when the command has ended. Raises TimedOut after `timeout_s`; the command goes on.

        The result holds the last lines of its output: see `result` for all of it.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.info.completed:
            hold = HOLD_S if deadline is None else max(0, min(HOLD_S, int(deadline - time.monotonic())))
            body = {"statuses": ["completed"], "timeout_seconds": hold}
            try:
                wire = await self._transport.json(
                    Call("POST", f"{self._path}/wait_for_status", json=body, timeout_s=hold + 10.0)
                )
            except errors.TimedOut:
                if deadline is not None and time.monotonic() >= deadline - 1:
                    raise errors.TimedOut(
                        f"cannot wait longer for execution {self.id}: it still runs after {timeout_s} s"
                    ) from None
            else:
                self.info = ExecutionInfo.from_wire(wire)
        return self.info

    async def result(self, timeout_s: float | None = None) -> ExecResult:
        """Return the exit code and the whole output once the command has ended."""
        info = await self.wait(timeout_s)
        stdout = await self.text("stdout") if info.stdout_cut else info.stdout
        stderr = await self.text("stderr") if info.stderr_cut else info.stderr
        return ExecResult(self.id, exit_code_of(info), stdout, stderr)

    async def text(self, stream: Stream) -> str:
        """Return everything that the command writes to a stream, once it has ended."""
        return "".join([chunk.text async for chunk in Follower(self._transport, self._path, stream).read()])

    async def output(self, stdout_offset: int = 0, stderr_offset: int = 0) -> AsyncIterator[Chunk]:
        """Yield output as it is written, of both streams, from these byte offsets, until the command has ended.

        A lost connection is opened again where it broke off. Raises Unreachable when that does not succeed.
        """
        out = Follower(self._transport, self._path, "stdout", stdout_offset)
        err = Follower(self._transport, self._path, "stderr", stderr_offset)
        async for chunk in concurrency.merge(out, err):
            yield chunk
        await self.wait()

    async def send_stdin(self, text: str) -> None:
        """Write to its standard input. Raises WrongState when it was started without one or has ended."""
        await self._send({"text": text})

    async def close_stdin(self) -> None:
        """End its standard input."""
        await self._send({"signal": "EOF"})

    async def interrupt(self) -> None:
        """Send it SIGINT, as Ctrl-C in a terminal does."""
        await self._send({"signal": "INTERRUPT"})

    async def kill(self) -> ExecutionInfo:
        """Kill it and everything that it started. Nothing happens when it has ended."""
        wire = await self._transport.json(Call("POST", f"{self._path}/kill", json={"kill_process_group": True}))
        self.info = ExecutionInfo.from_wire(wire)
        return self.info

    async def _send(self, body: dict[str, str]) -> None:
        await self._transport.json(Call("POST", f"{self._path}/send_std_in", json=body))


class Starter(Protocol):
    """What starts commands: a devbox."""

    async def start(self, command: str, *, shell: str | None = None) -> AsyncExecution: ...


class AsyncOutput:
    """The output of a command, started when the first chunk is asked for; `exit_code` is set at its end.

    output = devbox.exec_stream("make")
    async for chunk in output:
        print(chunk.text, end="")
    print(output.exit_code)
    """

    def __init__(self, devbox: Starter, command: str, shell: str | None) -> None:
        self._devbox = devbox
        self._command = command
        self._shell = shell
        self.execution: AsyncExecution | None = None
        self.exit_code: int | None = None

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        self.execution = await self._devbox.start(self._command, shell=self._shell)
        async for chunk in self.execution.output():
            yield chunk
        self.exit_code = exit_code_of(self.execution.info)


class Follower:
    """Reads one output stream to its end; opens it again at its offset when the connection is lost."""

    def __init__(self, transport: AsyncTransport, path: str, stream: Stream, offset: int = 0) -> None:
        self._transport = transport
        self._path = path
        self._stream: Stream = stream
        self._offset = offset
        self._response: httpx.Response | None = None
        self._stopped = False

    async def stop(self) -> None:
        """Make `read` end soon, from wherever this is called."""
        self._stopped = True
        if self._response is not None:
            await concurrency.release(self._response)

    async def read(self) -> AsyncIterator[Chunk]:
        """Yield chunks until the server ends the stream: the command has ended and everything was sent."""
        async for chunk in stream.resumed(self._once, stopped=lambda: self._stopped):
            yield chunk

    async def _once(self) -> AsyncIterator[Chunk | None]:
        call = Call(
            "GET",
            f"{self._path}/stream_{self._stream}_updates",
            params={"offset": str(self._offset)},
            timeout_s=stream.SILENCE_S,
        )
        decoder = _sse.Decoder()
        async with self._transport.stream(call) as response:
            self._response = response
            if self._stopped:  # while the answer was on its way: `stop` had nothing to release
                return
            yield None
            async for data in response.aiter_raw():
                for event in decoder.feed(data):
                    chunk = self._chunk(event)
                    self._offset = chunk.offset
                    yield chunk
        self._response = None

    def _chunk(self, event: _sse.Event) -> Chunk:
        try:
            body = json.loads(event.data)
            if event.name == "error":
                raise errors.from_wire(int(body.get("code", 0)), body)
            return Chunk(self._stream, body["output"], int(body["offset"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand {self._stream} of an execution: {error!r}") from error


def exit_code_of(info: ExecutionInfo) -> int:
    """Return the exit code of a command that has ended."""
    if info.exit_code is None:
        raise errors.BadAnswer(f"cannot tell how execution {info.id} ended: the answer has no exit code")
    return info.exit_code
