"""A session channel: one command of a client in its devbox, with pipes or a terminal.

Owns how what SSH asks for becomes an execution, and the copying between the two. Nothing of it runs on the host.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from signal import Signals
from typing import Final, cast

import asyncssh
from asyncssh.packet import SSHPacket

from corral.core import errors, log
from corral.core.ids import Ids
from corral.core.tasks import TaskOwner
from corral.devboxes.executions import Executions
from corral.devboxes.followers import Start
from corral.devboxes.model import Execution, ExecutionStatus
from corral.devboxes.ssh.client import Client, Flow
from corral.devboxes.ssh.keys import Admission
from corral.runtime.contract import MIB, ByteStream, RuntimeFailure, Stream, TerminalSize

#: Exit code of what could not be run to its end, as ssh's own.
INFRASTRUCTURE: Final = 255

#: A login shell, as the user's.
SHELL: Final = "exec bash -l"

#: The box's own server of SFTP, where distributions put it. Its protocol is the client's and the box's business.
SFTP: Final = """for server in /usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh /usr/libexec; do
  [ -x "$server/sftp-server" ] && exec "$server/sftp-server"
done
echo 'corral: this devbox has no sftp-server; install openssh-sftp-server in it, or use scp -O' >&2
exit 127"""

#: What SFTP says is no output that anybody reads later.
SFTP_KEPT: Final = 64 * 1024

#: Variables that a client may set, beside TERM; locales are not among them, since the box may not have them.
PASSED: Final = frozenset({"COLORTERM", "FORCE_COLOR", "GIT_PROTOCOL", "NO_COLOR"})
_VALUE: Final = re.compile(r"[ -~]{1,256}")

#: Of a channel, before its command starts. Others are refused.
VARIABLES: Final = 64
_VARIABLE_BYTES: Final = 4096

#: The kernel takes no longer argument.
_COMMAND_BYTES: Final = 120_000

#: Signals and sizes that wait for a box which does not answer; further ones are dropped.
CONTROLS: Final = 32

#: Seconds between the end of the output and the record of the end.
RECORD_S: Final = 30.0

_CELLS: Final = 1000


class Channel(asyncssh.SSHServerChannel[bytes]):
    """A session's channel with a bound on the variables that a client sets before anything runs."""

    @classmethod
    def of(cls, connection: asyncssh.SSHServerConnection, window: int = 2 * MIB) -> Channel:
        """A channel of bytes, without the library's line editor."""
        return cls(
            connection,
            asyncio.get_running_loop(),
            allow_pty=True,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=0,
            encoding=None,
            errors="strict",
            window=window,
            max_pktsize=32 * 1024,
        )

    def _process_env_request(self, packet: SSHPacket) -> bool:
        if len(self._env) >= VARIABLES or len(packet.get_remaining_payload()) > _VARIABLE_BYTES:
            return False
        return super()._process_env_request(packet)


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked for. `kind` is `exec`, `shell` or `sftp`, for people who read records."""

    kind: str
    command: str
    kept: int | None = None


class Command(Flow, asyncssh.SSHServerSession[bytes]):
    """One session. `on_end` is called once, when it is over."""

    def __init__(
        self,
        client: Client,
        executions: Executions,
        tasks: TaskOwner,
        ids: Ids,
        admission: Admission,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(client)
        self._executions = executions
        self._tasks = tasks
        self._ids = ids
        self._admission = admission
        self._on_end = on_end
        self._controls: asyncio.Queue[Signals | TerminalSize] = asyncio.Queue(CONTROLS)
        self._log = log.get("devboxes.ssh")
        self._channel: Channel
        self._term: str | None = None
        self._size: TerminalSize | None = None
        self._request: Request | None = None
        self._execution: Execution | None = None
        self._task: asyncio.Task[None] | None = None

    # -- what asyncssh tells

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._flow_from(cast("Channel", chan))

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._term = term_type if _VALUE.fullmatch(term_type) else "dumb"
        self._size = _size(*term_size[:2])
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._size is not None:
            self._control(_size(width, height))

    def shell_requested(self) -> bool:
        self._request = Request("shell", SHELL)
        return True

    def exec_requested(self, command: str) -> bool:
        if "\0" in command or len(command.encode()) > _COMMAND_BYTES:
            return False
        self._request = Request("exec", command if command.strip() else SHELL)
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._request, self._size = Request("sftp", SFTP, kept=SFTP_KEPT), None
        return True

    def session_started(self) -> None:
        self._task = self._tasks.spawn(self._run(), name="ssh command")

    def signal_received(self, signal: str) -> None:
        number = Signals.__members__.get(f"SIG{signal}")
        if number is not None:
            self._control(number)

    def break_received(self, msec: int) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._flow_ends()
        if self._task is None:
            self._on_end()
        else:
            self._task.cancel()

    def _control(self, wish: Signals | TerminalSize) -> None:
        if not self._controls.full():
            self._controls.put_nowait(wish)

    # -- the command

    async def _run(self) -> None:
        try:
            await self._start_and_copy()
        except (errors.CorralError, RuntimeFailure) as problem:
            self._tell(problem.message)
        finally:
            self._on_end()
            self._leave()

    async def _start_and_copy(self) -> None:
        request = self._request or Request("shell", SHELL)
        where = (self._admission.account_id, self._admission.devbox_id)
        self._execution = execution = await self._executions.start(
            *where,
            self._exports() + request.command,
            command_id=f"ssh:{request.kind}:{self._admission.key_id}:{self._ids.uuid7()}",
            attach_stdin=self._size is None,
            terminal=self._size,
            how=Start(hold=True, kept=request.kept),
        )
        controls = asyncio.ensure_future(self._obey(execution))
        try:
            await self._copy(execution)
            completed = frozenset({ExecutionStatus.COMPLETED})
            self._execution = ended = await self._executions.wait(*where, execution.id, completed, RECORD_S)
        finally:
            controls.cancel()
            await asyncio.gather(controls, return_exceptions=True)
        if ended.lost or ended.exit_code is None:
            self._tell("cannot tell how the command ended: the devbox ended first")
        else:
            self._channel.exit(ended.exit_code)

    def _exports(self) -> str:
        """Assignments for the command's shell, before the command."""
        sent = self._channel.get_environment()
        chosen = {name: value for name, value in sent.items() if name in PASSED and _VALUE.fullmatch(value)}
        if self._size is not None and self._term:
            chosen["TERM"] = self._term
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(chosen.items()))

    async def _copy(self, execution: Execution) -> None:
        """Copy until the command has written its last byte and the client has been sent it."""
        streams = (None,) if execution.terminal is not None else (Stream.STDOUT, Stream.STDERR)
        opened: list[tuple[Stream | None, ByteStream | None]] = []
        try:
            for stream in streams:  # one after another, so that those which are open are closed when one fails
                live = await self._attach(execution, stream)
                opened.append((stream, live))
            first = opened[0][1]
            typing = asyncio.ensure_future(self._type(first)) if first is not None else None
            try:
                await asyncio.gather(*(self._copy_stream(execution, stream, live) for stream, live in opened))
            finally:
                if typing is not None:
                    typing.cancel()
                    await asyncio.gather(typing, return_exceptions=True)
        finally:
            for _, live in opened:
                if live is not None:
                    await live.close()

    async def _attach(self, execution: Execution, stream: Stream | None) -> ByteStream | None:
        """The live stream; None when the command has ended already, with all that it said in the spool."""
        where = (self._admission.account_id, execution.devbox_id, execution.id)
        try:
            return await self._executions.attach(*where, stream=stream, patient=True)
        except errors.WrongState:
            return None

    async def _copy_stream(self, execution: Execution, stream: Stream | None, live: ByteStream | None) -> None:
        kind = asyncssh.EXTENDED_DATA_STDERR if stream is Stream.STDERR else None
        if live is not None:
            while data := await live.read():
                await self._show(data, kind)
            return
        async for data, _ in self._executions.stream(execution, stream or Stream.STDOUT, 0):
            await self._show(data, kind)

    async def _type(self, live: ByteStream) -> None:
        """Pass the client's input on for as long as the command takes it; then drop it, as a closed pipe would."""
        try:
            await self._pass_on(live)
        except (errors.CorralError, RuntimeFailure):
            while await self._inbox.take():
                self._client.touch()

    async def _obey(self, execution: Execution) -> None:
        where = (self._admission.account_id, execution.devbox_id, execution.id)
        while True:
            wish = await self._controls.get()
            try:
                if isinstance(wish, TerminalSize):
                    await self._executions.resize(*where, wish)
                else:
                    at_terminal = self._size is not None
                    await self._executions.kill(*where, group=True, foreground=at_terminal, signal=wish)
            except (errors.CorralError, RuntimeFailure) as problem:
                self._log.info("wish not obeyed", execution=execution.id, error=problem.message)

    # -- the end

    def _tell(self, message: str) -> None:
        self._channel.write_stderr(f"corral: {message}\r\n".encode())
        self._channel.exit(INFRASTRUCTURE)

    def _leave(self) -> None:
        """The client is gone or has its answer. A command that still runs is told, unless the server is stopping."""
        execution = self._execution
        if execution is None or execution.ended_at_ms is not None or self._tasks.closed:
            return
        self._tasks.spawn(self._hang_up(execution), name="ssh hang up")

    async def _hang_up(self, execution: Execution) -> None:
        try:
            await self._executions.hang_up(self._admission.account_id, execution)
        except (errors.CorralError, RuntimeFailure) as problem:
            self._log.info("command not hung up", execution=execution.id, error=problem.message)


def _size(width: int, height: int) -> TerminalSize:
    """A size in range; clients without a terminal of their own say 0."""
    return TerminalSize(rows=min(height, _CELLS) or 24, cols=min(width, _CELLS) or 80)
