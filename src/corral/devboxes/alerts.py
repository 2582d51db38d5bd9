"""Watches how near running devboxes are to their limits, and records each crossing once.

Owns the rounds of readings, their pace, and the events of alerts. An alert's event is its only record: the log shows
it, and the next server reads from it what was told already. Must not act on a devbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import events
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import crossings, rows
from corral.devboxes.crossings import Crossing, Measure
from corral.devboxes.model import LogEntry, LogLevel, LogSource, Observed
from corral.runtime.contract import Runtime, Usage

LIMIT_NEAR: Final = "devbox.limit_near"
OOM_KILL: Final = "devbox.oom_kill"
KINDS: Final = (LIMIT_NEAR, OOM_KILL)

#: Devboxes that are read, judged and recorded together.
AT_ONCE: Final = 64

#: Of one devbox, the newest that its log shows.
SHOWN: Final = 1000


@dataclass(slots=True)
class _Watched:
    usage: Usage
    at: float
    standing: frozenset[Crossing]
    oom_kills: int


@dataclass(frozen=True, slots=True)
class _Fresh:
    devbox_id: str
    kind: str
    data: Mapping[str, Any]


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
        running = [devbox_id for devbox_id, observed in live.items() if observed is Observed.RUNNING]
        self._watched = {devbox_id: self._watched[devbox_id] for devbox_id in running if devbox_id in self._watched}
        for start in range(0, len(running), AT_ONCE):
            # Those that are gone are left out: the controller tells of them.
            readings = await self._runtime.usages(running[start : start + AT_ONCE])
            await self._judge(readings, self._clock.monotonic())

    async def _judge(self, readings: Mapping[str, Usage], at: float) -> None:
        before = await self._before(readings, at)
        now: dict[str, _Watched] = {}
        fresh: list[_Fresh] = []
        for devbox_id, usage in readings.items():
            was = before[devbox_id]
            percent = crossings.used(was.usage, usage, at - was.at)
            standing = crossings.standing(was.standing, percent)
            for one in sorted(standing - was.standing, key=lambda one: (one.measure, one.level)):
                data = {"measure": one.measure.value, "level": one.level, "percent": round(percent[one.measure], 1)}
                fresh.append(_Fresh(devbox_id, LIMIT_NEAR, data))
            if (killed := usage.oom_kills - was.oom_kills) > 0:
                fresh.append(_Fresh(devbox_id, OOM_KILL, {"killed": killed, "oom_kills": usage.oom_kills}))
            now[devbox_id] = _Watched(usage, at, standing, max(usage.oom_kills, was.oom_kills))
        if fresh:
            at_ms = self._clock.now_ms()

            def record(connection: sa.Connection) -> None:
                for one in fresh:
                    events.append(connection, at_ms=at_ms, subject=one.devbox_id, kind=one.kind, data=one.data)

            await self._store.write(record)
        # After the record: a round that fails before it tells the same again.
        self._watched |= now

    async def _before(self, readings: Mapping[str, Usage], at: float) -> dict[str, _Watched]:
        """What was so in the last round; for devboxes that had none, what an earlier server, or none, has told."""
        new = [devbox_id for devbox_id in readings if devbox_id not in self._watched]
        before = {devbox_id: self._watched[devbox_id] for devbox_id in readings if devbox_id in self._watched}
        if new:
            told = await self._store.read(
                lambda connection: {devbox_id: of_devbox(connection, devbox_id) for devbox_id in new}
            )
            before |= {devbox_id: _remembered(told[devbox_id], readings[devbox_id], at) for devbox_id in new}
        return before


def _remembered(told: Sequence[events.Event], usage: Usage, at: float) -> _Watched:
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
    if data["measure"] == Measure.DISK and data["level"] == crossings.FULL:
        message = f"out of disk: {data['percent']:g} % of its limit are in use, and commands that write fail"
        return LogEntry(LogLevel.ERROR, LogSource.STATS, event.at_ms, message)
    message = f"{data['measure']} at {data['percent']:g} % of its limit, over {data['level']} %"
    return LogEntry(LogLevel.WARN, LogSource.STATS, event.at_ms, message)
