"""Time as a part that is passed in: wall clock in Unix milliseconds, a monotonic clock in seconds, and sleeping.

Owns the only calls of time.time, time.monotonic and asyncio.sleep. Must not keep deadlines for anybody.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """What the time is. Everything that decides by time takes one of these."""

    @abstractmethod
    def now_ms(self) -> int:
        """Unix time in milliseconds. May jump when the host's clock is set: for records, not for measuring."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that never go back. For measuring and for deadlines inside this process."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once, but after other tasks had their turn, when that is 0 or less."""


class SystemClock(Clock):
    """The host's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def booted_at_ms(self) -> int:
        """When the host booted, in Unix milliseconds by the wall clock as it is set now."""
        return self.now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class ManualClock(Clock):
    """A clock that stands still until the test moves it. Sleepers wake in the order of their deadlines."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = now_ms
        self._now = 0.0  # from 0: Unix time in a float is too coarse to add microseconds to
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ms(self) -> int:
        return self._start_ms + round(self._now * 1000)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking each sleeper at its own moment and letting tasks run in between."""
        end = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            moment, _, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, moment)
            if not future.done():
                future.set_result(None)
            await _settle()
        self._now = end
        await _settle()


async def _settle() -> None:
    """Give tasks that are ready a few turns of the loop, so that what they start is started before time moves on."""
    for _ in range(50):
        await asyncio.sleep(0)
