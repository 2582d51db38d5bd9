"""Which limits a devbox has come close to, judged from two readings of its use. Pure.

Owns the levels and the hysteresis. Must not read a box, keep state, or record anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from corral.runtime import failure
from corral.runtime.contract import Usage

#: Per cent of a limit at which a devbox's log says so.
LEVELS: Final = (80, 90)

#: The same of the disk alone: from here on it is full, and what wants to write fails.
FULL: Final = round(100 * failure.FULL)

#: A level counts again once the use has fallen this many per cent of the limit below it.
REARM: Final = 10


class Measure(enum.StrEnum):
    """What is limited."""

    MEMORY = "memory"
    CPU = "cpu"
    DISK = "disk"
    PIDS = "pids"


@dataclass(frozen=True, slots=True)
class Crossing:
    """Use of `measure` at or above `level` per cent of its limit."""

    measure: Measure
    level: int


def used(before: Usage, after: Usage, elapsed_s: float) -> dict[Measure, float]:
    """Per cent of each limit in use at `after`; of CPU, the mean over the `elapsed_s` since `before`."""
    limits = after.limits
    percent = {
        Measure.MEMORY: 100 * (after.memory - after.cache) / limits.memory,
        Measure.DISK: 100 * after.disk / limits.disk,
        Measure.PIDS: 100 * after.pids / limits.pids,
    }
    if elapsed_s > 0:
        percent[Measure.CPU] = 100 * (after.cpu_us - before.cpu_us) / (elapsed_s * 1_000_000 * limits.cpu)
    return percent


def standing(previous: frozenset[Crossing], percent: Mapping[Measure, float]) -> frozenset[Crossing]:
    """The crossings that hold now, given those that held. One not in `previous` is new; an unread measure stays."""
    kept = {one for one in previous if one.measure not in percent}
    for measure, share in percent.items():
        for level in (*LEVELS, FULL) if measure is Measure.DISK else LEVELS:
            crossing = Crossing(measure, level)
            if share >= (level - REARM if crossing in previous else level):
                kept.add(crossing)
    return frozenset(kept)
