"""Watches how near running devboxes are to their limits, and records each crossing once.

Owns the rounds of readings, their pace, and the events of alerts. An alert's event is its only record: the log shows
it, and the next server reads from it what was told already. Must not act on a devbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import events
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import crossings, rows
from corral.devboxes.crossings import Crossing, Measure
from corral.devboxes.model import LogEntry, LogLevel, LogSource, Observed
from corral.runtime.contract import BoxGone, Runtime, Usage

LIMIT_NEAR: Final = "devbox.limit_near"
OOM_KILL: Final = "devbox.oom_kill"
KINDS: Final = (LIMIT_NEAR, OOM_KILL)

#: Of one devbox, the newest that its log shows.
SHOWN: Final = 1000


@dataclass(slots=True)
class _Watched:
    usage: Usage
    at: float
    standing: frozenset[Crossing]
    oom_kills: int


class Alerts:
    """`look` is one round. Its cost is one reading for each running devbox; the caller sets the pace."""

    def __init__(self, store: Store, runtime: Runtime, *, clock: Clock) -> None:
        self._store = store
        self._runtime = runtime
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    async def look(self) -> None:
        """Read every running devbox and record what is new. CPU is judged over the time since the last round."""
        live = await self._store.read(rows.live)
        running = {devbox_id for devbox_id, observed in live.items() if observed is Observed.RUNNING}
        self._watched = {devbox_id: one for devbox_id, one in self._watched.items() if devbox_id in running}
        for devbox_id in running:
            try:
                usage = await self._runtime.usage(devbox_id)
            except BoxGone:  # which the controller tells
                continue
            await self._judge(devbox_id, usage, self._clock.monotonic())

    async def _judge(self, devbox_id: str, usage: Usage, at: float) -> None:
        before = self._watched.get(devbox_id) or await self._remembered(devbox_id, usage, at)
        percent = crossings.used(before.usage, usage, at - before.at)
        now = crossings.standing(before.standing, percent)
        fresh = sorted(now - before.standing, key=lambda one: (one.measure, one.level))
        killed = usage.oom_kills - before.oom_kills
        if fresh or killed > 0:
            at_ms = self._clock.now_ms()

            def record(connection: sa.Connection) -> None:
                for one in fresh:
                    data: dict[str, Any] = {"measure": one.measure.value, "level": one.level}
                    data["percent"] = round(percent[one.measure], 1)
                    events.append(connection, at_ms=at_ms, subject=devbox_id, kind=LIMIT_NEAR, data=data)
                if killed > 0:
                    data = {"killed": killed, "oom_kills": usage.oom_kills}
                    events.append(connection, at_ms=at_ms, subject=devbox_id, kind=OOM_KILL, data=data)

            await self._store.write(record)
        # After the record: a round that fails before it tells the same again.
        self._watched[devbox_id] = _Watched(usage, at, now, max(usage.oom_kills, before.oom_kills))

    async def _remembered(self, devbox_id: str, usage: Usage, at: float) -> _Watched:
        """What an earlier server, or none, has told of the devbox."""
        told = await self._store.read(lambda connection: of_devbox(connection, devbox_id))
        standing = frozenset(
            Crossing(Measure(event.data["measure"]), event.data["level"]) for event in told if event.kind == LIMIT_NEAR
        )
        oom_kills = max((event.data["oom_kills"] for event in told if event.kind == OOM_KILL), default=0)
        return _Watched(usage, at, standing, oom_kills)


def of_devbox(connection: sa.Connection, devbox_id: str) -> Sequence[events.Event]:
    """The devbox's alerts, oldest first."""
    return events.of_kinds(connection, devbox_id, KINDS, limit=SHOWN)


def entry(event: events.Event) -> LogEntry:
    """An alert as a line of its devbox's log."""
    data = event.data
    if event.kind == OOM_KILL:
        message = f"out of memory: the kernel killed {data['killed']} of its processes, {data['oom_kills']} in all"
        return LogEntry(LogLevel.ERROR, LogSource.KERNEL, event.at_ms, message)
    message = f"{data['measure']} at {data['percent']:g} % of its limit, over {data['level']} %"
    return LogEntry(LogLevel.WARN, LogSource.STATS, event.at_ms, message)
