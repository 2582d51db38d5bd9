"""HTTP of executions: start, wait, read, write to, end; and terminals over WebSocket.

Owns which part of an output a view holds. Must not hold a rule about an execution.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from corral.core import errors
from corral.devboxes import execution_views, execution_wire, model, service, terminals
from corral.devboxes.routes import DevboxId
from corral.http import hold, params
from corral.http.events import EventStream
from corral.http.model import MAX_INTEGER
from corral.runtime.contract import Stream, TerminalSize

#: Clients of execute_sync give up after 600 s, and ask again with the same request id.
SYNC_HOLD_S: Final = 590.0
OPTIMISTIC_S: Final = 25.0

#: Bytes of each stream in the answer of execute_sync; more than this has to be streamed.
SYNC_OUTPUT: Final = 8 * 1024 * 1024

DEFAULT_LINES: Final = 100

ExecutionId = Annotated[str, Path(pattern=execution_wire.EXECUTION_ID)]
Offset = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Byte of the stream to begin at.")]

_COMPLETED: Final = frozenset({model.ExecutionStatus.COMPLETED})


class ExecutionRoutes:
    """Run commands in a running devbox, and read what they said for as long as it is kept."""

    def __init__(self, executions: service.Executions, sessions: service.Sessions) -> None:
        self._executions = executions
        self._sessions = sessions

    async def execute(
        self,
        request: Request,
        devbox_id: DevboxId,
        body: execution_wire.ExecuteBody,
        last_n: params.LastN = DEFAULT_LINES,
    ) -> execution_views.ExecutionView:
        """Start a command and wait for its end for a while. The same `command_id` is the same execution."""
        account_id = params.account_id(request)
        execution = await self._executions.start(
            account_id, devbox_id, body.command, command_id=body.command_id, shell_name=body.shell_name
        )
        timeout_s = OPTIMISTIC_S if body.optimistic_timeout is None else body.optimistic_timeout
        execution = await self._settled(request, account_id, execution, timeout_s)
        return self._view(execution, last_n)

    async def execute_async(
        self, request: Request, devbox_id: DevboxId, body: execution_wire.ExecuteAsyncBody
    ) -> execution_views.ExecutionView:
        """Start a command. A repeat of the request (same x-request-id) is the same execution."""
        execution = await self._executions.start(
            params.account_id(request),
            devbox_id,
            body.command,
            command_id=repeat_id(request, body.command),
            shell_name=body.shell_name,
            attach_stdin=bool(body.attach_stdin),
        )
        return self._view(execution, DEFAULT_LINES)

    async def execute_sync(
        self, request: Request, devbox_id: DevboxId, body: execution_wire.ExecuteSyncBody
    ) -> execution_views.ExecutionDetailView:
        """Run a command to its end. A repeat of the request (same x-request-id) waits for the same execution."""
        account_id = params.account_id(request)
        command_id = repeat_id(request, body.command)
        execution = await self._executions.start(
            account_id, devbox_id, body.command, command_id=command_id, shell_name=body.shell_name
        )
        waiting = self._executions.wait(account_id, devbox_id, execution.id, _COMPLETED, SYNC_HOLD_S)
        execution = await hold.hold(request, waiting)
        stdout, more_stdout = await self._output(execution, Stream.STDOUT)
        stderr, more_stderr = await self._output(execution, Stream.STDERR)
        return execution_views.ExecutionDetailView(
            devbox_id=devbox_id,
            exit_status=-1 if execution.exit_code is None else execution.exit_code,
            stdout=stdout,
            stderr=stderr,
            stdout_truncated=more_stdout or execution.stdout_cut,
            stderr_truncated=more_stderr or execution.stderr_cut,
            shell_name=execution.shell_name,
        )

    async def terminal(
        self, request: Request, devbox_id: DevboxId, body: execution_wire.TerminalBody
    ) -> execution_views.ExecutionView:
        """Start a login shell, or a command, on a terminal; connect to it at `…/executions/{id}/attach`.

        With `session` it is the open session of that name, or a new one with a login shell.
        """
        size = TerminalSize(rows=body.rows, cols=body.cols)
        if body.session is not None:
            if body.command is not None:
                raise errors.Invalid(
                    "cannot open terminal: a session runs a login shell: leave command or session out"
                )
            account_id = params.account_id(request)
            told = size if {"cols", "rows"} & body.model_fields_set else None
            session = await self._sessions.connect(account_id, devbox_id, body.session, told)
            return self._view(session.execution, DEFAULT_LINES)
        execution = await self._executions.start(
            params.account_id(request),
            devbox_id,
            body.command or "exec bash -l",
            command_id=repeat_id(request, f"terminal {body.cols}x{body.rows} {body.command}"),
            terminal=size,
        )
        return self._view(execution, DEFAULT_LINES)

    async def retrieve(
        self,
        request: Request,
        devbox_id: DevboxId,
        execution_id: ExecutionId,
        last_n: params.LastN = DEFAULT_LINES,
    ) -> execution_views.ExecutionView:
        """The execution as it is now, also after the end of its devbox."""
        execution = await self._executions.get(params.account_id(request), devbox_id, execution_id)
        return self._view(execution, last_n)

    async def list(
        self,
        request: Request,
        devbox_id: DevboxId,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> execution_views.ExecutionListView:
        """Executions of the devbox, newest first."""
        page = await self._executions.list(
            params.account_id(request),
            devbox_id,
            limit=limit,
            starting_after=starting_after,
            count=include_total_count,
        )
        shown = [execution_views.execution_view(execution) for execution in page.items]
        return execution_views.ExecutionListView(executions=shown, has_more=page.has_more, total_count=page.total)

    async def wait_for_status(
        self,
        request: Request,
        devbox_id: DevboxId,
        execution_id: ExecutionId,
        body: execution_wire.WaitForCommandBody,
        last_n: params.LastN = DEFAULT_LINES,
    ) -> execution_views.ExecutionView:
        """Answer once the execution is in one of the statuses; 408 when it was not within the time."""
        statuses = frozenset(model.ExecutionStatus(status) for status in body.statuses)
        timeout_s = OPTIMISTIC_S if body.timeout_seconds is None else body.timeout_seconds
        waiting = self._executions.wait(params.account_id(request), devbox_id, execution_id, statuses, timeout_s)
        return self._view(await hold.hold(request, waiting), last_n)

    async def kill(
        self, request: Request, devbox_id: DevboxId, execution_id: ExecutionId, body: execution_wire.KillBody
    ) -> execution_views.ExecutionView:
        """Kill the command, or its whole process group. One that has ended stays as it is."""
        execution = await self._executions.kill(
            params.account_id(request), devbox_id, execution_id, group=bool(body.kill_process_group)
        )
        return self._view(execution, DEFAULT_LINES)

    async def send_std_in(
        self, request: Request, devbox_id: DevboxId, execution_id: ExecutionId, body: execution_wire.SendStdInBody
    ) -> execution_views.SendStdInView:
        """Write text to the command's standard input, close it (EOF), or interrupt the command."""
        if (body.text is None) == (body.signal is None):
            raise errors.Invalid("cannot send to standard input: give exactly one of text and signal")
        await self._executions.send_stdin(
            params.account_id(request),
            devbox_id,
            execution_id,
            (body.text or "").encode(),
            eof=body.signal == "EOF",
            interrupt=body.signal == "INTERRUPT",
        )
        return execution_views.SendStdInView(devbox_id=devbox_id, execution_id=execution_id, success=True)

    async def stream_stdout_updates(
        self, request: Request, devbox_id: DevboxId, execution_id: ExecutionId, offset: Offset = 0
    ) -> Response:
        """Standard output as server-sent events, from `offset` until the command has ended."""
        return await self._stream(request, devbox_id, execution_id, Stream.STDOUT, offset)

    async def stream_stderr_updates(
        self, request: Request, devbox_id: DevboxId, execution_id: ExecutionId, offset: Offset = 0
    ) -> Response:
        """Standard error as server-sent events, from `offset` until the command has ended."""
        return await self._stream(request, devbox_id, execution_id, Stream.STDERR, offset)

    async def attach(
        self,
        websocket: WebSocket,
        devbox_id: DevboxId,
        execution_id: ExecutionId,
        read_only: Annotated[bool, Query(description="Look on without typing.")] = False,  # noqa: FBT002
    ) -> None:
        """A terminal: binary frames both ways; text frames `{"cols": n, "rows": n}` set its size.

        Several may be attached. With `read_only` the client only looks on.
        """
        account_id = params.account_id(websocket)
        execution = await self._executions.get(account_id, devbox_id, execution_id)

        async def resize(size: TerminalSize) -> None:
            await self._executions.resize(account_id, devbox_id, execution_id, size)

        async def ended() -> bool:
            return await self._executions.has_ended(account_id, devbox_id, execution_id, terminals.RECORD_S)

        link = terminals.Link(websocket, ended, terminals.nothing_typed if read_only else terminals.sizes(resize))
        with self._sessions.viewing(execution):
            stream = await self._executions.attach(account_id, devbox_id, execution_id)
            try:
                await websocket.accept()
                await link.couple(stream)
            finally:
                await stream.close()

    # -- inside

    async def _settled(
        self, request: Request, account_id: str, execution: model.Execution, timeout_s: float
    ) -> model.Execution:
        """The execution once it has completed, or as it is after `timeout_s`."""
        if execution.status is model.ExecutionStatus.COMPLETED or timeout_s <= 0:
            return execution
        waiting = self._executions.wait(account_id, execution.devbox_id, execution.id, _COMPLETED, timeout_s)
        try:
            return await hold.hold(request, waiting)
        except errors.TimedOut:
            return await self._executions.get(account_id, execution.devbox_id, execution.id)

    def _view(self, execution: model.Execution, last_n: int) -> execution_views.ExecutionView:
        if execution.status is not model.ExecutionStatus.COMPLETED:
            return execution_views.execution_view(execution)
        stdout = self._executions.tail(execution, Stream.STDOUT, last_n)
        stderr = self._executions.tail(execution, Stream.STDERR, last_n)
        return execution_views.execution_view(execution, stdout, stderr)

    async def _output(self, execution: model.Execution, stream: Stream) -> tuple[str, bool]:
        """Output from its beginning, at most SYNC_OUTPUT bytes, and whether there is more."""
        parts: list[bytes] = []
        async for chunk, offset in self._executions.stream(execution, stream, 0):
            parts.append(chunk)
            if offset > SYNC_OUTPUT:
                return b"".join(parts)[:SYNC_OUTPUT].decode(errors="replace"), True
        return b"".join(parts).decode(errors="replace"), False

    async def _stream(
        self, request: Request, devbox_id: str, execution_id: str, stream: Stream, offset: int
    ) -> Response:
        execution = await self._executions.get(params.account_id(request), devbox_id, execution_id)
        return EventStream(self._chunks(execution, stream, offset))

    async def _chunks(
        self, execution: model.Execution, stream: Stream, offset: int
    ) -> AsyncIterator[Mapping[str, Any]]:
        async for chunk, after in self._executions.stream(execution, stream, offset):
            yield {"output": chunk.decode(errors="replace"), "offset": after}


def repeat_id(request: Request, act: str) -> str | None:
    """A command id that repeats of the request share: clients send the same x-request-id when they try again."""
    request_id = request.headers.get("x-request-id")
    if not request_id:
        return None
    digest = hashlib.sha256(f"{request.url.path}\0{request_id}\0{act}".encode())
    return f"req-{digest.hexdigest()[:40]}"
