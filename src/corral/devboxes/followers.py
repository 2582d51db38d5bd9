"""The life of an execution: from its committed wish over its start and output to its committed end.

Owns a task for each open execution and wakes those who wait. Two commits an execution: nobody hears of a start before
the first, or of an end before the second. The commits are relaxed: a loss of power ends the box, and its spool is no
more durable. Must not check who asks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import sqlalchemy as sa

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.core.tasks import TaskOwner
from corral.core.wake import Wake, Wakes
from corral.devboxes import execution_rows, faults, shells, verdicts
from corral.devboxes.execution_rows import Wish
from corral.devboxes.model import Execution, ExecutionSource, ExecutionStatus
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import (
    BadCommand,
    BoxGone,
    BoxUnresponsive,
    ExecResult,
    ExecSpec,
    NoSuchExecution,
    Runtime,
    RuntimeFailure,
)

T = TypeVar("T")

#: Runs in the transaction of a start with the new execution's id; says whether the execution is a new one.
Admission = Callable[[sa.Connection, str], tuple[Execution, bool]]

#: Completed executions kept in memory, so that the answer to a command that just ended needs no query.
_RECENT: Final = 1024

#: A guest that does not answer is asked again after these seconds before a start is given up.
_START_RETRIES_S: Final = (0.2, 1.0)

#: Seconds before a follow or a commit that failed is tried again; doubled each time up to the second figure.
_RETRY_S: Final = (0.1, 10.0)

_LOST: Final = ExecResult(exit_code=137, lost=True)

#: As shells say it: 127 for what is not there, 126 for what could not be executed.
_BAD_COMMAND: Final = ExecResult(exit_code=127)
_NOT_STARTED: Final = ExecResult(exit_code=126)


@dataclass(frozen=True, slots=True)
class Start:
    """How a command is started by whoever attaches to it at once. A later process starts it in the usual way.

    `hold` is that of the runtime; `kept` bounds what is kept of each stream, in bytes.
    """

    hold: bool = False
    kept: int | None = None


#: By a caller who looks later, or never.
USUAL: Final = Start()


@dataclass(slots=True)
class Live:
    """An execution that this process has in memory. `execution` is replaced when its row has changed."""

    account_id: str
    execution: Execution
    changed: Wake = field(default_factory=Wake)
    counted: bool = False
    how: Start = USUAL


class Followers:
    """One for each store. `resume` before the first `begin`."""

    def __init__(
        self, store: Store, runtime: Runtime, vitals: Vitals, *, clock: Clock, ids: Ids, output_limit: int
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._vitals = vitals
        self._clock = clock
        self._ids = ids
        self._output_limit = output_limit
        self._log = log.get("devboxes.followers")
        self._tasks = TaskOwner("devboxes.followers")
        self._live: dict[str, Live] = {}
        self._recent: OrderedDict[str, Live] = OrderedDict()
        self.grown = Wakes()  #: fires a devbox's id when one of its commands has written something

    @property
    def closed(self) -> bool:
        """Whether `close` was called: nothing will change any more in this process."""
        return self._tasks.closed

    def live(self, execution_id: str) -> Live | None:
        """The execution if it is open."""
        return self._live.get(execution_id)

    def all_live(self) -> list[Live]:
        """Every execution that is open."""
        return list(self._live.values())

    def known(self, execution_id: str) -> Live | None:
        """The execution if it is open, or one of those that ended last."""
        return self._live.get(execution_id) or self._recent.get(execution_id)

    async def begin(self, account_id: str, admit: Admission, how: Start = USUAL) -> Execution:
        """Commit the wish that `admit` writes, start its command and follow it; return once it runs or is queued.

        A caller that is cancelled does not stop this. Raises what `admit` raises, why the command did not start, and
        errors.Unavailable when the server stops meanwhile: whether it was started is not known then.
        """
        task = self._tasks.spawn(self._admit_and_start(account_id, admit, how), name="start execution")
        await asyncio.wait({task})
        if task.cancelled():
            raise errors.Unavailable("cannot start this: the server is stopping; ask again")
        return task.result()

    async def launch(self, account_id: str, devbox_id: str, wish: Wish) -> Execution:
        """`begin` for the controller: in any state of the devbox. The wish's command id makes it safe to repeat."""

        def admit(connection: sa.Connection, execution_id: str) -> tuple[Execution, bool]:
            return execution_rows.admit(connection, execution_id, devbox_id, wish, self._clock.now_ms())

        return await self.begin(account_id, admit)

    async def resume(self) -> None:
        """Take up every open execution of the store; a command that was recorded but not started is started."""
        first_of_shell: dict[tuple[str, str], Live] = {}
        for execution, account_id in await self._store.read(execution_rows.open_executions):
            live = self._live[execution.id] = Live(account_id, execution)
            if execution.status is ExecutionStatus.RUNNING:
                self._tasks.spawn(self._start_and_follow(live), name=f"follow {execution.id}")
            if execution.shell_name is not None:
                first_of_shell.setdefault((execution.devbox_id, execution.shell_name), live)
        for live in first_of_shell.values():
            if live.execution.status is ExecutionStatus.QUEUED:
                self._tasks.spawn(self._promote(live.execution), name=f"promote {live.execution.id}")

    def take_up(self, account_id: str, execution: Execution) -> None:
        """Follow a command that runs in a box already, whose row was just written."""
        live = self._live[execution.id] = Live(account_id, execution)
        self._tasks.spawn(self._start_and_follow(live), name=f"follow {execution.id}")

    async def abandon(self, devbox_id: str) -> None:
        """Complete as lost what is queued in a devbox that has ended; followers complete what was running."""
        for live in list(self._live.values()):
            if live.execution.devbox_id == devbox_id and live.execution.status is ExecutionStatus.QUEUED:
                await self.finish(live, _LOST, "the devbox ended before the command's turn")

    async def finish(
        self, live: Live, result: ExecResult, message: str = "", *, expected: ExecutionStatus | None = None
    ) -> None:
        """Commit the end of an execution, let the next command of its shell run, and wake who waits.

        Without effect when it has ended before, or when its status is not `expected` (if given).
        """
        execution = live.execution

        def complete(connection: sa.Connection) -> tuple[Execution | None, Execution | None]:
            now = self._clock.now_ms()
            done = execution_rows.complete(connection, execution.id, result, now, message=message, expected=expected)
            if done is None or done.shell_name is None:
                return done, None
            return done, execution_rows.promote(connection, done.devbox_id, done.shell_name, now)

        done, promoted = await self._commit(complete)
        if done is not None:
            self._ended(live, done)
        if promoted is not None:
            self._start_promoted(promoted)

    async def close(self) -> None:
        """Stop following. The commands run on, and are taken up by the next `resume`."""
        await self._tasks.close()
        for live in self._live.values():
            live.changed.fire()

    # -- start

    async def _admit_and_start(self, account_id: str, admit: Admission, how: Start) -> Execution:
        execution_id = self._ids.new("exe")
        execution, new = await self._store.write(lambda connection: admit(connection, execution_id), relaxed=True)
        if not new:
            known = self.known(execution.id)
            return known.execution if known is not None else execution
        live = self._live[execution.id] = Live(account_id, execution, how=how)
        if execution.status is ExecutionStatus.RUNNING:
            problem = await self._start(live)
            if problem is not None:
                raise problem
            self._tasks.spawn(self._follow_to_the_end(live), name=f"follow {execution.id}")
        return live.execution

    async def _start_and_follow(self, live: Live) -> None:
        if await self._start(live) is None:
            await self._follow_to_the_end(live)

    async def _start(self, live: Live) -> errors.CorralError | None:
        """Have the box run the command. When it cannot, commit that as the execution's end and return why."""
        self._count(live)
        try:
            await self._execute(live.execution, live.how)
        except BoxGone:
            self._vitals.doubt(live.execution.devbox_id)  # the follower finds out whether it had been started before
        except BadCommand as problem:
            return await self._not_started(live, _BAD_COMMAND, problem)
        except BoxUnresponsive as problem:
            self._vitals.doubt(live.execution.devbox_id)
            return await self._not_started(live, _LOST, problem)
        except RuntimeFailure as problem:
            return await self._not_started(live, _NOT_STARTED, problem)
        return None

    async def _execute(self, execution: Execution, how: Start) -> None:
        spec = ExecSpec(
            id=execution.id,
            argv=shells.argv(execution.command, execution.shell_name, execution.user),
            user=execution.user,
            stdin=execution.attach_stdin,
            terminal=execution.terminal,
            output_limit=min(self._output_limit, how.kept or self._output_limit),
            hold=how.hold,
        )
        for delay in _START_RETRIES_S:
            try:
                return await self._runtime.execute(execution.devbox_id, spec)
            except BoxUnresponsive:  # whether it was started is not known; the id makes it safe to ask again
                await self._clock.sleep(delay)
        return await self._runtime.execute(execution.devbox_id, spec)

    async def _not_started(self, live: Live, result: ExecResult, problem: RuntimeFailure) -> errors.CorralError:
        await self.finish(live, result, problem.message)
        return faults.to_error(problem)

    # -- follow

    async def _follow_to_the_end(self, live: Live) -> None:
        delay, longest = _RETRY_S
        while True:
            try:
                result = await self._follow(live)
            except (NoSuchExecution, BoxGone):
                await self.finish(live, _LOST, "the devbox ended before the command could be started")
                return
            except RuntimeFailure as problem:
                self._log.warning("follow failed", execution=live.execution.id, error=problem.message, retry_s=delay)
                self._vitals.doubt(live.execution.devbox_id)
                result = None
            if result is not None:
                await self.finish(live, result, await self._explain(live.execution, result))
                return
            await self._clock.sleep(delay)
            delay = min(longest, delay * 2)

    async def _follow(self, live: Live) -> ExecResult | None:
        """Wake who waits whenever there is more output; return the result once there is one."""
        result = None
        async for progress in self._runtime.follow(live.execution.devbox_id, live.execution.id):
            result = progress.result
            live.changed.fire()
            self.grown.fire(live.execution.devbox_id)
        return result

    async def _explain(self, execution: Execution, result: ExecResult) -> str:
        """What the record says beside the exit code."""
        if result.lost:
            return "the devbox ended before the command did"
        full = await verdicts.out_of_disk(self._runtime, execution.devbox_id, execution.id, result)
        return f"{full.message}; {full.remedy}" if full is not None else ""

    # -- end

    def _ended(self, live: Live, done: Execution) -> None:
        live.execution = done
        self._live.pop(done.id, None)
        self._recent[done.id] = live
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        if live.counted:
            live.counted = False
            self._vitals.command_ended(done.devbox_id)
        live.changed.fire()

    async def _promote(self, execution: Execution) -> None:
        shell_name = execution.shell_name or ""
        promoted = await self._commit(
            lambda connection: execution_rows.promote(
                connection, execution.devbox_id, shell_name, self._clock.now_ms()
            )
        )
        if promoted is not None:
            self._start_promoted(promoted)

    def _start_promoted(self, promoted: Execution) -> None:
        live = self._live.get(promoted.id)
        if live is None:
            return  # its start was cancelled between its commit and this turn: the server is stopping
        live.execution = promoted
        live.changed.fire()
        self._tasks.spawn(self._start_and_follow(live), name=f"follow {promoted.id}")

    def _count(self, live: Live) -> None:
        """A caller's command keeps its devbox from being idle; launch commands and the entrypoint do not."""
        if live.execution.source is ExecutionSource.EXEC and not live.counted:
            live.counted = True
            self._vitals.command_began(live.execution.devbox_id)

    async def _commit(self, work: Callable[[sa.Connection], T]) -> T:
        """Write until it is written: an end that is known must not be forgotten because the disk is full."""
        delay, longest = _RETRY_S
        while True:
            try:
                return await self._store.write(work, relaxed=True)
            except errors.Unavailable as problem:
                if self.closed:
                    raise
                self._log.error("commit failed", error=problem.message, retry_s=delay)
            await self._clock.sleep(delay)
            delay = min(longest, delay * 2)
