"""Commands in devboxes, as durable records: what callers can do with them.

Owns the checks of who asks for what, waiting, signalling, input and the reading of output.
Must not start or follow a command by itself (`followers` does), and must not move a devbox to another state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from signal import SIGHUP, SIGINT, SIGKILL
from typing import Final

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import execution_rows, output, rows
from corral.devboxes.execution_rows import Wish
from corral.devboxes.followers import USUAL, Followers, Start
from corral.devboxes.model import Execution, ExecutionStatus, Page
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import ByteStream, ExecResult, NoSuchExecution, Runtime, Stream, TerminalSize

#: How long `kill` waits for the command to be gone before it answers with the state of that moment.
_KILL_WAIT_S: Final = 2.0

#: Waiters look again this often even if nothing wakes them: the bound on a wake-up lost to a defect.
_LOOK_AGAIN_S: Final = 30.0

#: A row that was committed in this turn of the loop and has no follower yet is looked at again after this.
_TURN_S: Final = 0.02

_KILLED: Final = ExecResult(exit_code=128 + SIGKILL, signal=SIGKILL)
_TERMINAL_INTERRUPT: Final = b"\x03"


class Executions:
    """See the methods. Everything raises errors.NotFound for what is not the account's."""

    def __init__(self, store: Store, runtime: Runtime, followers: Followers, vitals: Vitals, clock: Clock) -> None:
        self._store = store
        self._runtime = runtime
        self._followers = followers
        self._vitals = vitals
        self._clock = clock

    # -- start

    async def start(
        self,
        account_id: str,
        devbox_id: str,
        command: str,
        *,
        command_id: str | None = None,
        shell_name: str | None = None,
        attach_stdin: bool = False,
        terminal: TerminalSize | None = None,
        user: str | None = None,
        how: Start = USUAL,
    ) -> Execution:
        """Run `command` as `bash -l -c` in the user's home; return once it runs, or is queued in its shell.

        `command_id` is an idempotency key within the devbox: the same id again returns the same execution. Commands of
        one `shell_name` run one after another and share directory and environment. `attach_stdin` keeps a pipe for
        `send_stdin`; `terminal` runs it on a pseudo-terminal for `attach`; `user` is a user name in the box; `how` is
        for those who attach at once.

        A caller that is cancelled does not take the command back. Raises errors.WrongState when the devbox is not
        running, errors.Conflict when the command id belongs to another command, errors.Invalid when it cannot be
        started (the record then says exit code 127), errors.Exhausted, errors.Unavailable.
        """
        wish = Wish(
            command,
            command_id=command_id,
            shell_name=shell_name,
            attach_stdin=attach_stdin,
            terminal=terminal,
            user=user,
        )

        def admit(connection: sa.Connection, execution_id: str) -> tuple[Execution, bool]:
            rows.require_running(connection, account_id, devbox_id, "run command in")
            return execution_rows.admit(connection, execution_id, devbox_id, wish, self._clock.now_ms())

        return await self._followers.begin(account_id, admit, how)

    # -- look

    async def get(self, account_id: str, devbox_id: str, execution_id: str) -> Execution:
        """The execution as it is now."""
        known = self._followers.known(execution_id)
        if known is not None and (known.account_id, known.execution.devbox_id) == (account_id, devbox_id):
            return known.execution

        def find(connection: sa.Connection) -> Execution:
            rows.get(connection, account_id, devbox_id)
            execution = execution_rows.find(connection, execution_id)
            if execution is None or execution.devbox_id != devbox_id:
                raise errors.NotFound(
                    f"cannot find execution {execution_id}: devbox {devbox_id} has none with this id"
                )
            return execution

        return await self._store.read(find)

    async def list(
        self,
        account_id: str,
        devbox_id: str,
        *,
        status: ExecutionStatus | None = None,
        limit: int = 20,
        starting_after: str | None = None,
        count: bool = True,
    ) -> Page[Execution]:
        """The devbox's executions, newest first. Raises errors.Invalid for a bad limit or an unknown cursor."""

        def find(connection: sa.Connection) -> Page[Execution]:
            rows.get(connection, account_id, devbox_id)
            return execution_rows.page(
                connection, devbox_id, status=status, limit=limit, starting_after=starting_after, count=count
            )

        return await self._store.read(find)

    async def session(self, account_id: str, devbox_id: str, name: str) -> Execution | None:
        """The open session of this name, see `sessions`; None when there is none."""

        def find(connection: sa.Connection) -> Execution | None:
            rows.get(connection, account_id, devbox_id)
            return execution_rows.open_sessions(connection, devbox_id).get(name)

        return await self._store.read(find)

    async def wait(
        self,
        account_id: str,
        devbox_id: str,
        execution_id: str,
        statuses: frozenset[ExecutionStatus],
        timeout_s: float,
    ) -> Execution:
        """Return the execution once it has one of `statuses`. Raises errors.TimedOut after `timeout_s` seconds."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            execution = await self.get(account_id, devbox_id, execution_id)
            if execution.status in statuses:
                return execution
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise errors.TimedOut(
                    f"cannot wait longer for execution {execution_id}: it is {execution.status.value} after "
                    f"{timeout_s:g} s"
                )
            live = self._followers.live(execution_id)
            if live is None:
                await self._clock.sleep(left if execution.ended_at_ms is not None else min(left, _TURN_S))
            else:
                await live.changed.wait(min(left, _LOOK_AGAIN_S))

    async def has_ended(self, account_id: str, devbox_id: str, execution_id: str, patience_s: float) -> bool:
        """Whether it completes within `patience_s` seconds: the record follows the end after a moment."""
        try:
            await self.wait(account_id, devbox_id, execution_id, frozenset({ExecutionStatus.COMPLETED}), patience_s)
        except errors.TimedOut:
            return False
        return True

    # -- act

    async def kill(
        self,
        account_id: str,
        devbox_id: str,
        execution_id: str,
        *,
        group: bool = False,
        foreground: bool = False,
        signal: int = SIGKILL,
    ) -> Execution:
        """Send a signal to the command's process, to its group, or to the job that has its terminal (`foreground`).

        A queued command is taken from its queue.

        Returns the execution, completed if it ended within 2 s. One that has ended already is returned as it is.
        """
        execution = await self.get(account_id, devbox_id, execution_id)
        live = self._followers.live(execution_id)
        if live is None:
            return execution
        if execution.status is ExecutionStatus.QUEUED:
            await self._followers.finish(live, _KILLED, "killed before its turn", expected=ExecutionStatus.QUEUED)
            if live.execution.ended_at_ms is not None:
                return live.execution
        try:
            with self._vitals.watching(devbox_id):
                await self._runtime.signal(devbox_id, execution_id, signal, group=group, foreground=foreground)
        except errors.WrongState:
            pass  # it ended by itself, or its box did: its follower is about to say so; or no job has the terminal
        deadline = self._clock.monotonic() + _KILL_WAIT_S
        while (
            signal == SIGKILL
            and live.execution.ended_at_ms is None
            and (left := deadline - self._clock.monotonic()) > 0
        ):
            await live.changed.wait(left)
        return live.execution

    async def hang_up(self, account_id: str, execution: Execution) -> None:
        """Tell a command that nobody is there any more, as a terminal that is closed does: SIGHUP to all of it."""
        where = (account_id, execution.devbox_id, execution.id)
        if execution.terminal is not None:
            await self.kill(*where, foreground=True, signal=SIGHUP)
        await self.kill(*where, group=True, signal=SIGHUP)

    async def send_stdin(
        self,
        account_id: str,
        devbox_id: str,
        execution_id: str,
        data: bytes,
        *,
        eof: bool = False,
        interrupt: bool = False,
    ) -> None:
        """Write `data` to the command's standard input, close it (`eof`), or interrupt the command (SIGINT, Ctrl-C).

        Returns when the box has taken the data. Raises errors.WrongState when the command has ended, is queued, or was
        started without `attach_stdin`.
        """
        execution = await self._require_running(account_id, devbox_id, execution_id, "write to")
        if not execution.attach_stdin and execution.terminal is None:
            raise errors.WrongState(f"cannot write to execution {execution_id}: it was started without attach_stdin")
        with self._vitals.watching(devbox_id):
            if interrupt and execution.terminal is None:
                await self._runtime.signal(devbox_id, execution_id, SIGINT, group=True)
            elif interrupt:
                await self._runtime.write_stdin(devbox_id, execution_id, _TERMINAL_INTERRUPT)
            else:
                await self._runtime.write_stdin(devbox_id, execution_id, data, close=eof)

    async def attach(
        self,
        account_id: str,
        devbox_id: str,
        execution_id: str,
        *,
        stream: Stream | None = None,
        patient: bool = False,
    ) -> ByteStream:
        """Connect to the terminal of a command: recent output first, then live. The caller closes the stream.

        With `stream`, to that one of a command without a terminal. `patient` as the runtime has it.
        """
        await self._require_running(account_id, devbox_id, execution_id, "attach to")
        with self._vitals.watching(devbox_id):
            return await self._runtime.attach(devbox_id, execution_id, stream=stream, patient=patient)

    async def resize(self, account_id: str, devbox_id: str, execution_id: str, size: TerminalSize) -> None:
        """Set the size of the command's terminal. Raises errors.WrongState when it has none or has ended."""
        await self._require_running(account_id, devbox_id, execution_id, "resize terminal of")
        with self._vitals.watching(devbox_id):
            await self._runtime.resize(devbox_id, execution_id, size)

    # -- output

    def tail(self, execution: Execution, stream: Stream, lines: int) -> tuple[str, bool]:
        """The last `lines` lines (at most 1 MiB), and whether there was more: before them, or over the limit."""
        box, name = execution.devbox_id, execution.id
        cut = execution.stdout_cut if stream is Stream.STDOUT else execution.stderr_cut
        cut = cut or self._missing(execution, stream)
        try:
            size = self._runtime.output_size(box, name, stream)
            text, more = output.tail(
                lambda offset, limit: self._runtime.read_output(box, name, stream, offset, limit), size, lines
            )
        except NoSuchExecution:  # it never started, or its output was forgotten: there is nothing to show
            return "", cut
        return text, more or cut

    def _missing(self, execution: Execution, stream: Stream) -> bool:
        """Whether the host has lost or forgotten some of the output of a command that ran to its end.

        What ended under this server cannot have been lost: that takes a loss of power, which ends the server too.
        """
        ended = execution.status is ExecutionStatus.COMPLETED and not execution.lost and not execution.message
        if not ended or self._followers.known(execution.id) is not None:
            return False
        return self._runtime.output_missing(execution.devbox_id, execution.id, stream)

    async def stream(self, execution: Execution, stream: Stream, offset: int) -> AsyncIterator[tuple[bytes, int]]:
        """Yield (chunk, offset after it) from `offset`; at most 64 KiB each, cut between UTF-8 characters.

        Follows the command while it runs, without limit; ends when it has completed and all is sent. Bytes that can
        never become a character are passed on as they are.
        """
        box, name = execution.devbox_id, execution.id
        while True:
            live = self._followers.live(name)  # before the read: what comes after it is then read in the next turn
            try:
                data = self._runtime.read_output(box, name, stream, offset, output.CHUNK)
            except NoSuchExecution:
                data = b""  # queued, or about to start; or forgotten
            whole = output.whole_characters(data)
            if len(data) == output.CHUNK or live is not None:
                data = data[:whole]
            if data:
                offset += len(data)
                yield data, offset
            elif live is None or self._followers.closed:
                return
            elif self._followers.live(name) is live:
                await live.changed.wait(_LOOK_AGAIN_S)

    async def _require_running(self, account_id: str, devbox_id: str, execution_id: str, verb: str) -> Execution:
        execution = await self.get(account_id, devbox_id, execution_id)
        if execution.status is not ExecutionStatus.RUNNING:
            raise errors.WrongState(f"cannot {verb} execution {execution_id}: it is {execution.status.value}")
        return execution
