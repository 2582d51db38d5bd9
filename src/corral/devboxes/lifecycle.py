"""One look at one devbox: what is so, what is wished, and the next thing to do about it.

Owns every transition that no caller asks for, and when a box is made, kept and removed; `provisioning` and
`suspension` do the first two. Level-triggered: a step looks at the row and at the host, not at what an earlier step
did, so that it can be cancelled and repeated anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import deadlines, execution_rows, faults, launch, rows
from corral.devboxes.followers import Followers
from corral.devboxes.launch import Launch, Outcome
from corral.devboxes.model import ENDED, Desired, Devbox, Execution, Observed, Reason
from corral.devboxes.object_mounts import ObjectMounts
from corral.devboxes.provisioning import Provisioning, Sources
from corral.devboxes.suspension import Suspension
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import (
    Box,
    BoxGone,
    BoxStatus,
    HostUnfit,
    MemoryNotKept,
    NoSuchSnapshot,
    Runtime,
    RuntimeFailure,
)
from corral.storage.service import Objects

#: Between two looks at a copy that a box is to begin as.
_COPY_PAUSE_S: Final = 0.03

_TO_RUNNING: Final = rows.Step((Observed.RUNNING,))
_AT_ONCE: Final = rows.Step((Observed.INITIALIZING, Observed.RUNNING))
_TO_INITIALIZING: Final = rows.Step((Observed.INITIALIZING,), Reason.STARTING)
_SUSPEND_IDLE: Final = rows.Step((Observed.SUSPENDING,), Reason.IDLE, desired=Desired.SUSPENDED)
_SUSPENDING: Final = frozenset({Observed.SUSPENDING})
_RUNNING: Final = frozenset({Observed.RUNNING})
_PROVISIONING: Final = frozenset({Observed.PROVISIONING})
_INITIALIZING: Final = frozenset({Observed.INITIALIZING})


@dataclass(frozen=True, slots=True)
class Rules:
    """See the settings of the same names. `booted_at_ms` is when the host booted: no box is older."""

    limits: deadlines.Limits
    starts_at_once: int
    stops_at_once: int
    booted_at_ms: int = 0


class Lifecycle:
    """One for each store. `step` is what the controller's loop runs, at most once at a time for a devbox."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        sources: Sources,
        followers: Followers,
        vitals: Vitals,
        *,
        objects: Objects,
        clock: Clock,
        rules: Rules,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._sources = sources
        self._followers = followers
        self._vitals = vitals
        self._clock = clock
        self._rules = rules
        self._provisioning = Provisioning(runtime, clock=clock, limits=rules.limits, at_once=rules.starts_at_once)
        self._suspension = Suspension(store, runtime)
        self._launch = Launch(store, runtime, followers, ObjectMounts(runtime, objects))
        self._log = log.get("devboxes.lifecycle")
        self._stops = asyncio.Semaphore(rules.stops_at_once)
        self._troubles: dict[str, str] = {}

    async def step(self, devbox_id: str) -> float | None:
        """Do what is next; return after how many seconds to look again, None when an event will tell."""
        devbox = await self._store.read(lambda connection: rows.find(connection, devbox_id))
        if devbox is None or devbox.observed in ENDED:
            return await self._remove(devbox_id)
        due = self._deadline(devbox)
        if due is not None and due.left_s <= 0:
            return await self._act_on(devbox, due)
        if devbox.observed is Observed.SUSPENDED:
            return None
        if devbox.observed is Observed.PROVISIONING:
            return await self._provision(devbox)
        if devbox.observed is Observed.SUSPENDING:
            return await self._suspend(devbox)
        box = await self._inspect(devbox_id)
        if box is None or box.status is BoxStatus.DEAD:
            return await self._mourn(devbox, box)
        if self._vitals.is_silent(devbox_id):
            return await self._end(devbox, Reason.GUEST_UNRESPONSIVE, "the box lives, but its guest does not answer")
        if devbox.observed is Observed.INITIALIZING:
            return await self._initialize(devbox)
        return await self._keep(devbox)

    async def _act_on(self, devbox: Devbox, due: deadlines.Deadline) -> float | None:
        if devbox.observed is Observed.SUSPENDING:
            return await self._stay(devbox, self._troubles.get(devbox.id, due.message))
        if due.reason is Reason.IDLE and devbox.request.idle_suspends:
            suspending = await self._move(devbox, _RUNNING, _SUSPEND_IDLE)
            return await self._suspend(suspending) if suspending is not None else None
        if due.reason is Reason.LAUNCH_FAILED:
            return await self._launch_failed(devbox, due.reason, due.message)
        return await self._end(devbox, due.reason, self._troubles.get(devbox.id, due.message))

    # -- towards suspended, and back

    async def _suspend(self, devbox: Devbox) -> float | None:
        """Run its last commands, keep its disk, remove its box. A step that was cut off is done again."""
        left = devbox.request.suspend_limit_s - (self._clock.now_ms() - devbox.observed_at_ms) / 1000
        box = await self._inspect(devbox.id)
        if devbox.kept is not None and (box is None or box.status is BoxStatus.DEAD):
            # The server that removed it died before it could say so. What is left of it may have no disk any more.
            return await self._fall_asleep(devbox)
        if box is None:
            return await self._mourn(devbox, None)
        if box.status is BoxStatus.RUNNING and left > 0 and not await self._launch.before_suspend(devbox):
            return left
        try:
            await self._suspension.keep(devbox)
        except BoxGone:
            return await self._mourn(devbox, None)
        except RuntimeFailure as problem:
            return await self._stay(devbox, problem.message)
        return await self._fall_asleep(await self._again(devbox))

    async def _again(self, devbox: Devbox) -> Devbox:
        return await self._store.read(lambda connection: rows.find(connection, devbox.id)) or devbox

    async def _fall_asleep(self, devbox: Devbox) -> float | None:
        async with self._stops:
            await self._runtime.destroy(devbox.id)
        self._troubles.pop(devbox.id, None)
        step = rows.Step((Observed.SUSPENDED,), devbox.reason, devbox.message, memory=devbox.memory)
        await self._move(devbox, _SUSPENDING, step)
        return None

    async def _stay(self, devbox: Devbox, message: str) -> float | None:
        """It cannot be suspended: it goes on running, and says why."""
        self._troubles.pop(devbox.id, None)
        # Also lets a box go on that stands still because its memory was kept.
        await self._suspension.forget(devbox.id)
        step = rows.Step((Observed.RUNNING,), message=f"not suspended: {message}", desired=Desired.RUNNING)
        running = await self._move(devbox, _SUSPENDING, step)
        self._log.warning("devbox not suspended", devbox=devbox.id, message=message)
        return await self._keep(running) if running is not None else None

    # -- towards running

    async def _provision(self, devbox: Devbox) -> float | None:
        try:
            source = await self._sources.find(devbox)
        except errors.CorralError as problem:
            return await self._end(devbox, Reason.START_FAILED, problem.message)
        if source is None:
            return _COPY_PAUSE_S
        try:
            made = await self._provisioning.make(devbox, source)
        except (HostUnfit, NoSuchSnapshot, MemoryNotKept) as problem:
            return await self._end(devbox, Reason.START_FAILED, faults.to_error(problem).message)
        except RuntimeFailure as problem:
            self._troubles[devbox.id] = problem.message  # what the failure says if no later try succeeds in time
            raise
        self._troubles.pop(devbox.id, None)
        empty = made.restored or launch.is_empty(devbox.request)
        step = replace(_AT_ONCE if empty else _TO_INITIALIZING, memory=made.memory)
        moved = await self._provisioned(devbox, step, made.executions)
        if moved is None:
            return None
        if devbox.kept is not None:
            await self._suspension.forget(devbox.id)
        return await (self._keep(moved) if empty else self._initialize(moved))

    async def _provisioned(self, devbox: Devbox, step: rows.Step, executions: Mapping[str, str]) -> Devbox | None:
        """Record that its box is made, and which executions of another one go on in it."""

        def change(connection: sa.Connection) -> tuple[Devbox | None, list[Execution]]:
            at_ms = self._clock.now_ms()
            moved = rows.transition(connection, devbox.id, _PROVISIONING, step, at_ms)
            if moved is None:
                return None, []
            return moved, execution_rows.copy(connection, devbox.id, executions, at_ms)

        moved, copies = await self._store.write(change)
        for execution in copies:
            self._followers.take_up(devbox.account_id, execution)
        return moved

    async def _initialize(self, devbox: Devbox) -> float | None:
        progress = await self._launch.step(devbox)
        if progress.refusal is not None:
            return await self._launch_failed(devbox, progress.refusal.reason, progress.refusal.message)
        if progress.outcome is Outcome.WAITING:
            due = self._deadline(devbox)
            return due.left_s if due is not None else None
        running = await self._move(devbox, _INITIALIZING, _TO_RUNNING)
        return await self._keep(running) if running is not None else None

    async def _launch_failed(self, devbox: Devbox, reason: Reason, message: str) -> float | None:
        """It has failed; but one that was resumed has a disk with work on it: it is suspended again, and says why."""
        if devbox.start == 0:
            return await self._end(devbox, reason, message)
        step = rows.Step((Observed.SUSPENDING,), reason, message, desired=Desired.SUSPENDED)
        suspending = await self._move(devbox, _INITIALIZING, step)
        return await self._suspend(suspending) if suspending is not None else None

    # -- while running

    async def _keep(self, devbox: Devbox) -> float | None:
        """Nothing to do but to know when to look again."""
        entrypoint = await self._launch.ended_entrypoint(devbox)
        if entrypoint is not None and not entrypoint.lost:
            message = f"its entrypoint exited with code {entrypoint.exit_code}"
            return await self._end(devbox, Reason.ENTRYPOINT_EXIT, message)
        due = self._deadline(devbox)
        return due.left_s if due is not None else None

    async def _inspect(self, devbox_id: str) -> Box | None:
        try:
            return await self._runtime.inspect(devbox_id)
        except BoxGone:
            return None

    # -- towards the end

    async def _mourn(self, devbox: Devbox, box: Box | None) -> float | None:
        if box is None and devbox.observed_at_ms < self._rules.booted_at_ms:
            return await self._end(devbox, Reason.HOST_RESTARTED, "the host was restarted and the box ended with it")
        reason, message = faults.death(box.reason if box is not None else None)
        return await self._end(devbox, reason, message)

    async def _end(self, devbox: Devbox, reason: Reason, message: str) -> float | None:
        """Record why the devbox has ended, unless it ended otherwise meanwhile; the event removes the box."""
        if devbox.observed is Observed.PROVISIONING and devbox.kept is not None:
            return await self._sleep_on(devbox, reason, message)
        asked_for = reason in {Reason.KEEP_ALIVE_TIMEOUT, Reason.IDLE, Reason.ENTRYPOINT_EXIT}
        status = Observed.SHUTDOWN if asked_for else Observed.FAILURE
        step = rows.Step((status,), reason, message, desired=Desired.SHUTDOWN if asked_for else None)
        ended = await self._move(devbox, rows.LIVE, step)
        if ended is not None:
            self._log.info("devbox ended", devbox=devbox.id, status=status.value, reason=reason.value, message=message)
        return None

    async def _sleep_on(self, devbox: Devbox, reason: Reason, message: str) -> float | None:
        """No box could be made for a suspended devbox: its disk is kept on, and it says why."""
        await self._runtime.destroy(devbox.id)
        step = rows.Step((Observed.SUSPENDED,), reason, message, desired=Desired.SUSPENDED)
        await self._move(devbox, _PROVISIONING, step)
        self._log.warning("devbox not resumed", devbox=devbox.id, reason=reason.value, message=message)
        return None

    async def _remove(self, devbox_id: str) -> float | None:
        async with self._stops:
            await self._runtime.destroy(devbox_id)
        await self._suspension.forget(devbox_id)
        self._troubles.pop(devbox_id, None)
        self._vitals.forget(devbox_id)
        await self._followers.abandon(devbox_id)
        return None

    async def _move(self, devbox: Devbox, expected: frozenset[Observed], step: rows.Step) -> Devbox | None:
        return await self._store.write(
            lambda connection: rows.transition(connection, devbox.id, expected, step, self._clock.now_ms())
        )

    def _deadline(self, devbox: Devbox) -> deadlines.Deadline | None:
        return deadlines.deadline(
            devbox, self._rules.limits, now_ms=self._clock.now_ms(), idle_s=self._vitals.idle_s(devbox.id)
        )
