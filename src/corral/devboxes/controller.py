"""Keeps every devbox looked at: on wishes, deaths and doubts as they come, and in rounds over all rows and boxes.

Owns the reconcile loop of devboxes and its rounds. Must not decide what is done with a devbox (`lifecycle` does).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.reconcile import Reconciler, rounds
from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.alerts import Alerts
from corral.devboxes.lifecycle import Lifecycle
from corral.devboxes.model import ExecutionSource, Observed, Reason
from corral.devboxes.pulse import Pace, Pulse
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import BoxStatus, Runtime, RuntimeFailure

#: Seconds between two rounds of forgetting old output.
_SWEEP_S: Final = 600.0

#: Seconds between two looks at the host while the server stops.
_LOOK_S: Final = 0.05

_POKES: Final = frozenset({"devbox.provisioning", "devbox.suspending", "devbox.shutdown", "devbox.failure"})

_BOXED: Final = frozenset({Observed.INITIALIZING, Observed.RUNNING})


class Controller:
    """`run` until cancelled. It hears of new wishes through the feed, so make it before the first request."""

    def __init__(
        self,
        store: Store,
        feed: events.Feed,
        runtime: Runtime,
        lifecycle: Lifecycle,
        vitals: Vitals,
        *,
        clock: Clock,
        resync_s: float,
        alerts_s: float,
        keep_output_s: float,
        pace: Pace,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._alerts = Alerts(store, runtime, clock=clock)
        self._clock = clock
        self._alerts_s = alerts_s
        self._resync_s = resync_s
        self._keep_output_s = keep_output_s
        self._log = log.get("devboxes.controller")
        self._keys = Reconciler(lifecycle.step, clock=clock, part="devboxes.controller")
        feed.listen(self._heard)
        self._pulse = Pulse(store, runtime, vitals, clock=clock, pace=pace, on_silent=self._keys.poke)
        vitals.on_doubt = self._doubted

    async def run(self) -> None:
        """Work until cancelled; steps that are under way then are cancelled and leave nothing half-made."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run(), name="reconcile devboxes")
            group.create_task(self._hear_deaths(), name="hear of deaths")
            group.create_task(self._pulse.run(), name="ask guests")
            every = partial(rounds, clock=self._clock, part="devboxes.controller")
            group.create_task(every(self.resync, every_s=self._resync_s), name="compare rows and boxes")
            group.create_task(every(self._alerts.look, every_s=self._alerts_s), name="read the use of limits")
            group.create_task(every(self.sweep, every_s=_SWEEP_S), name="forget old output")

    async def resync(self) -> None:
        """Compare all rows with all boxes, and look at each devbox for which they do not agree.

        The boxes are listed first: a box that is on the host then had its row before, so one without a row
        is nobody's.
        """
        boxes = {box.id: box.status for box in await self._runtime.boxes()}
        live = await self._store.read(rows.live)
        for box_id in boxes.keys() - live.keys():
            self._keys.poke(box_id)
        for devbox_id, observed in live.items():
            missing = observed in _BOXED and boxes.get(devbox_id) is not BoxStatus.RUNNING
            if missing or not self._keys.knows(devbox_id):
                self._keys.poke(devbox_id)

    async def finish(self, limit_s: float) -> None:
        """While `run` goes on: wait until no box of an ended devbox is on the host, for at most `limit_s` seconds.

        Whoever was told that a devbox is shut down need not start the server again for its box to go.
        """
        deadline = self._clock.monotonic() + limit_s
        while self._clock.monotonic() < deadline:
            try:
                boxes = {box.id for box in await self._runtime.boxes()}
                live = await self._store.read(rows.live)
            except (RuntimeFailure, errors.CorralError) as problem:
                self._log.warning("removals not awaited", error=str(problem))
                return
            if not boxes - live.keys():
                return
            await self._clock.sleep(_LOOK_S)

    async def sweep(self) -> None:
        """Forget the output of devboxes that ended longer ago than output is kept."""
        before_ms = self._clock.now_ms() - round(self._keep_output_s * 1000)
        while old := await self._store.read(lambda connection: rows.with_old_output(connection, before_ms)):
            for devbox_id in old:
                await self._runtime.forget_output(devbox_id)
            await self._store.write(partial(rows.output_forgotten, devbox_ids=old))

    def _heard(self, event: events.Event) -> None:
        """Wishes and ends. Steps tell of `initializing` and `running` themselves and go on by themselves."""
        if event.kind == "devbox.shutdown" and event.data["reason"] == Reason.API_SHUTDOWN:
            self._keys.interrupt(event.subject)
        elif event.kind in _POKES or (
            event.kind == "execution.completed" and event.data["source"] != ExecutionSource.EXEC
        ):
            self._keys.poke(event.subject)

    def _doubted(self, devbox_id: str) -> None:
        """Its box may be dead, which a look tells, or its guest hang, which a question does."""
        self._keys.poke(devbox_id)
        self._pulse.hurry(devbox_id)

    async def _hear_deaths(self) -> None:
        async for box in self._runtime.deaths():
            self._keys.poke(box.id)
