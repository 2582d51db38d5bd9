"""One level-triggered loop: a key is looked at until what is so is what is wanted. And rounds, which look at all keys.

Owns the work queue, its timers, its retries and the tasks of all steps. Must not know what a key stands for.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from corral.core import log
from corral.core.clock import Clock

#: Looks at a key; returns after how many seconds to look again, or None to wait for the next `poke`.
Step = Callable[[str], Awaitable[float | None]]

_FIRST_RETRY_S: Final = 0.2
_LAST_RETRY_S: Final = 30.0

#: A round rests for this many times as long as it took: with thousands of keys it comes less often.
_REST: Final = 10

#: Stale timers that are kept beside as many as there are live ones twice over, before all are sifted.
_STALE: Final = 1000


class Reconciler:
    """Runs `step(key)` for every key that is poked: at most once at a time for a key, at most `workers` in all.

    A step that raises is run again after 0.2 s, then after twice as long each time up to 30 s. Every cost is a matter
    of the one key: nothing here grows with the number of keys, but the heap of timers by its logarithm.
    """

    def __init__(self, step: Step, *, clock: Clock, workers: int = 256, part: str = "reconcile") -> None:
        self._step = step
        self._clock = clock
        self._workers = workers
        self._log = log.get(part)
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._interrupted: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._timers: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._earlier = asyncio.Event()

    def poke(self, key: str) -> None:
        """Look at `key` now; again after its step when one is running. May be called before `run`."""
        if key not in self._queued:
            self._queued.add(key)
            if key not in self._running:
                self._ready.append(key)
        self._start_ready()

    def interrupt(self, key: str) -> None:
        """Cancel the step of `key` if one is running, and look at it again: what it works towards has changed."""
        task = self._running.get(key)
        if task is not None:
            self._interrupted.add(key)
            task.cancel()
        self.poke(key)

    def knows(self, key: str) -> bool:
        """Whether the key will be looked at without another poke."""
        return key in self._running or key in self._queued or key in self._due

    async def run(self) -> None:
        """Work until cancelled; the steps that are running then are cancelled and awaited."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                self._start_ready()
                await self._keep_time()
            finally:
                self._group = None  # before the steps are cancelled: the end of one must not start the next

    def _start_ready(self) -> None:
        while self._group is not None and self._ready and len(self._running) < self._workers:
            key = self._ready.popleft()
            self._queued.discard(key)
            self._due.pop(key, None)
            self._running[key] = self._group.create_task(self._look(key), name=f"reconcile {key}")

    async def _look(self, key: str) -> None:
        try:
            delay = await self._step(key)
            self._failures.pop(key, None)
        except asyncio.CancelledError:
            if key not in self._interrupted:
                raise
            delay = None
        except Exception as error:  # noqa: BLE001 - the fallback is the retry
            delay = self._retry_delay(key)
            self._log.warning("step failed", key=key, retry_s=delay, **_said(error))
        finally:
            self._interrupted.discard(key)
            del self._running[key]
            if key in self._queued:
                self._ready.append(key)
            self._start_ready()
        if delay is not None and not self._awaits(key):
            self._look_at(key, self._clock.monotonic() + delay)

    def _awaits(self, key: str) -> bool:
        return key in self._queued or key in self._running

    def _retry_delay(self, key: str) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(failures, 16)))

    def _look_at(self, key: str, moment: float) -> None:
        self._due[key] = moment
        if len(self._timers) > 2 * len(self._due) + _STALE:
            # Keys that were poked, or ended, before their time left entries behind, some for two days.
            self._timers = [entry for entry in self._timers if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (moment, next(self._order), key))
        if self._timers[0][2] == key:
            self._earlier.set()

    async def _keep_time(self) -> None:
        """Poke keys as their time comes. An entry whose key has another time by now is stale."""
        while True:
            self._earlier.clear()
            now = self._clock.monotonic()
            while self._timers and self._timers[0][0] <= now:
                moment, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == moment:
                    self.poke(key)
            await self._sleep_until(self._timers[0][0] if self._timers else None)

    async def _sleep_until(self, moment: float | None) -> None:
        earlier = asyncio.ensure_future(self._earlier.wait())
        waits: set[asyncio.Future[Any]] = {earlier}
        if moment is not None:
            waits.add(asyncio.ensure_future(self._clock.sleep(moment - self._clock.monotonic())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def rounds(
    work: Callable[[], Awaitable[None]], *, every_s: float, clock: Clock, part: str, first_s: float = 0.0
) -> None:
    """Do `work` after `first_s` seconds and again `every_s` after each end, until cancelled.

    A round that raises is logged, and the next one comes as if it had not. One that took over a tenth of `every_s` is
    followed by a rest of ten times as long.
    """
    await clock.sleep(first_s)
    while True:
        start = clock.monotonic()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the fallback is the next round
            log.get(part).warning("round failed", retry_s=every_s, **_said(error))
        await clock.sleep(max(every_s, _REST * (clock.monotonic() - start)))


def _said(error: Exception) -> dict[str, Any]:
    """A defect shows where it is; an outcome that was foreseen has a message that says enough."""
    return {"error": str(error) or repr(error), "exc_info": None if hasattr(error, "message") else error}
