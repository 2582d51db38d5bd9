"""Sessions: named shells on a terminal that outlive the connections of those who use them.

Owns which execution a session is, who is attached to it, and its end when nobody is. A session is an execution on a
terminal whose command id holds the session's name, so that it survives a restart of the server as executions do. Must
not copy a byte of a terminal: routes do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from signal import SIGKILL, Signals
from typing import Final

import sqlalchemy as sa

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.reconcile import rounds
from corral.devboxes import execution_rows, rows
from corral.devboxes.execution_rows import Wish
from corral.devboxes.executions import Executions
from corral.devboxes.followers import Followers
from corral.devboxes.model import Execution, ExecutionStatus
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import Runtime, TerminalSize

#: Sessions of one devbox that are open at the same time.
PER_DEVBOX: Final = 64

#: Seconds that a shell gets to end after SIGHUP before it is killed.
HANG_UP_S: Final = 1.0

#: Seconds between two looks at which sessions nobody uses, at most.
_LOOK_S: Final = 15.0

_SHELL: Final = "exec bash -l"
_COMPLETED: Final = frozenset({ExecutionStatus.COMPLETED})


@dataclass(slots=True)
class _Use:
    """What this process knows of the use of a session."""

    size: TerminalSize
    used_s: float
    viewers: int = 0
    taken: bool = False  #: by the one who is attached alone


@dataclass(frozen=True, slots=True)
class Session:
    """A session at the moment of a call."""

    name: str
    execution: Execution
    size: TerminalSize
    created: bool
    attached: bool


class Sessions:
    """All sessions of this server. Everything raises errors.NotFound for what is not the account's."""

    def __init__(
        self,
        runtime: Runtime,
        executions: Executions,
        followers: Followers,
        vitals: Vitals,
        *,
        clock: Clock,
        idle_s: float,
    ) -> None:
        self._runtime = runtime
        self._executions = executions
        self._followers = followers
        self._vitals = vitals
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._log = log.get("devboxes.sessions")
        self.idle_s = idle_s

    async def connect(self, account_id: str, devbox_id: str, name: str, size: TerminalSize | None = None) -> Session:
        """The open session of this name, or a new one with a login shell; of this size if one is given.

        Raises errors.WrongState when the devbox is not running, errors.Unavailable when no shell can be started.
        """
        first = size or TerminalSize()
        made = ""

        def admit(connection: sa.Connection, execution_id: str) -> tuple[Execution, bool]:
            nonlocal made
            rows.require_running(connection, account_id, devbox_id, "open session in")
            known = execution_rows.open_sessions(connection, devbox_id)
            if name in known:
                return known[name], False
            if len(known) >= PER_DEVBOX:
                raise errors.Unavailable(f"cannot open session {name[:50]}: {PER_DEVBOX} are open; close one")
            made = execution_id
            command_id = execution_rows.session_command_id(name, execution_id)
            wish = Wish(_SHELL, command_id=command_id, terminal=first)
            return execution_rows.admit(connection, execution_id, devbox_id, wish, self._clock.now_ms())

        try:
            execution = await self._followers.begin(account_id, admit)
        except errors.Exhausted as problem:  # which clients of a session try again only as 503
            raise errors.Unavailable(problem.message) from problem
        use = self._use(execution)
        use.used_s = self._clock.monotonic()
        created = execution.id == made
        if size is not None and not created and size != use.size:
            await self._resize(account_id, execution, size)
        return Session(name, execution, use.size, created, use.viewers > 0)

    async def find(self, account_id: str, devbox_id: str, name: str) -> Execution:
        """The execution of an open session. Raises errors.NotFound when there is none of this name."""
        execution = await self._executions.session(account_id, devbox_id, name)
        if execution is None:
            raise errors.NotFound(f"cannot find session {name[:50]}: devbox {devbox_id} has none that is open")
        return execution

    # -- use

    @contextlib.contextmanager
    def viewing(self, execution: Execution, *, alone: bool = False) -> Iterator[None]:
        """Around the connection of somebody to a terminal: a session is not idle meanwhile.

        `alone` as the dialect has it: raises errors.Conflict when somebody else is attached in this way.
        """
        if execution_rows.session_name(execution) is None:
            yield
            return
        use = self._use(execution)
        if alone and use.taken:
            raise errors.Conflict("cannot attach to session: another client is attached; one can be at a time")
        use.taken = use.taken or alone
        use.viewers += 1
        try:
            yield
        finally:
            use.viewers -= 1
            use.taken = use.taken and not alone
            use.used_s = self._clock.monotonic()

    # -- control

    async def resize(self, account_id: str, devbox_id: str, name: str, size: TerminalSize) -> None:
        """Set the size of the session's terminal."""
        await self._resize(account_id, await self.find(account_id, devbox_id, name), size)

    async def signal(self, account_id: str, devbox_id: str, name: str, signal_name: str) -> None:
        """Send a signal to the job that has the terminal. Raises errors.Invalid for a name that is no signal's."""
        number = Signals.__members__.get(signal_name)
        if number is None or not signal_name.startswith("SIG"):
            raise errors.Invalid(f"cannot signal session: {signal_name[:50]!r} is no signal; send SIGINT, for example")
        execution = await self.find(account_id, devbox_id, name)
        with self._vitals.watching(devbox_id):
            await self._runtime.signal(devbox_id, execution.id, number, foreground=True)

    async def close(self, account_id: str, devbox_id: str, name: str) -> None:
        """Hang the session up; its shell has ended when this returns, and the name is free."""
        await self._hang_up(account_id, await self.find(account_id, devbox_id, name))

    # -- the end of what nobody uses

    async def run(self) -> None:
        """End sessions to which nobody has been attached for `idle_s` seconds. Runs until it is cancelled."""
        look_s = min(_LOOK_S, self.idle_s / 4)
        await rounds(self.end_idle, every_s=look_s, clock=self._clock, part="devboxes.sessions")

    async def end_idle(self) -> None:
        """One look. After a restart of the server a session counts as used when it is first looked at."""
        now = self._clock.monotonic()
        live = {item.execution.id: item for item in self._followers.all_live() if _is_session(item.execution)}
        for gone in self._uses.keys() - live.keys():
            if self._uses[gone].viewers == 0:
                del self._uses[gone]
        for execution_id, item in live.items():
            use = self._use(item.execution)
            if use.viewers or now - use.used_s < self.idle_s:
                continue
            self._log.info("ending idle session", devbox=item.execution.devbox_id, execution=execution_id)
            try:
                await self._hang_up(item.account_id, item.execution)
            except errors.CorralError as problem:  # its box has ended or hangs: the next look finds out
                self._log.warning("session not ended", execution=execution_id, error=problem.message)

    # -- inside

    def _use(self, execution: Execution) -> _Use:
        use = self._uses.get(execution.id)
        if use is None:
            size = execution.terminal or TerminalSize()
            use = self._uses[execution.id] = _Use(size, self._clock.monotonic())
        return use

    async def _resize(self, account_id: str, execution: Execution, size: TerminalSize) -> None:
        await self._executions.resize(account_id, execution.devbox_id, execution.id, size)
        self._use(execution).size = size

    async def _hang_up(self, account_id: str, execution: Execution) -> None:
        devbox_id = execution.devbox_id
        await self._executions.hang_up(account_id, execution)
        try:
            await self._executions.wait(account_id, devbox_id, execution.id, _COMPLETED, HANG_UP_S)
        except errors.TimedOut:
            await self._executions.kill(account_id, devbox_id, execution.id, group=True, signal=SIGKILL)


def _is_session(execution: Execution) -> bool:
    return execution_rows.session_name(execution) is not None
