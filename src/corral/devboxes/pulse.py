"""Finds out whether the guests of live devboxes still answer, also where nobody asks anything of them.

Owns the pace of the questions and the verdict on a guest. Must not act on a devbox: `lifecycle` does.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.model import Observed
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import BoxUnresponsive, Runtime, RuntimeFailure

#: So many questions in a row without an answer make a guest silent: one may fall into a pause of the host.
_TRIES: Final = 4

#: A round is spread over so many beats, so that the questions of thousands of devboxes do not come at once.
_BEATS: Final = 20

#: More questions than this a second are not asked, at 0.12 ms of the server's processor time each: with more devboxes
#: than fit into a round it takes longer.
_PER_S: Final = 300.0

#: Questions under way. All are answered within a beat, but where guests hang or starve.
_MOST: Final = 1000

_ASKED: Final = frozenset({Observed.INITIALIZING, Observed.RUNNING})


@dataclass(frozen=True, slots=True)
class Pace:
    """Each guest is asked every `every_s` seconds; one that does not answer for `limit_s` seconds is silent."""

    every_s: float = 10.0
    limit_s: float = 15.0


class Pulse:
    """`run` until cancelled. `on_silent` is called with the id of a devbox whose guest is silent.

    A question costs 0.12 ms of processor time in the server and 0.02 in the guest, a round one read of the store.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        vitals: Vitals,
        *,
        clock: Clock,
        pace: Pace,
        on_silent: Callable[[str], None],
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._vitals = vitals
        self._clock = clock
        self._pace = pace
        self._on_silent = on_silent
        self._log = log.get("devboxes.pulse")
        self._group: asyncio.TaskGroup | None = None
        self._round: deque[str] = deque()
        self._share = 1
        self._asking: set[str] = set()

    def hurry(self, devbox_id: str) -> None:
        """Ask this one's guest now, or as soon as there is room."""
        if not self._start(devbox_id):
            self._round.appendleft(devbox_id)

    async def run(self) -> None:
        """Ask round by round."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    await self._beat()
                    await self._clock.sleep(self._pace.every_s / _BEATS)
            finally:
                self._group = None

    async def _beat(self) -> None:
        """Start the next part of the round; of the next round when it is over."""
        if not self._round:
            try:
                live = await self._store.read(rows.live)
            except errors.CorralError as problem:
                self._log.warning("round failed", error=problem.message)
                return
            self._round.extend(devbox_id for devbox_id, observed in live.items() if observed in _ASKED)
            most = max(1, int(_PER_S * self._pace.every_s / _BEATS))
            self._share = min(most, math.ceil(len(self._round) / _BEATS))
        for _ in range(min(self._share, len(self._round))):
            if not self._start(self._round[0]):
                return
            self._round.popleft()

    def _start(self, devbox_id: str) -> bool:
        """Have the guest asked, unless it is being asked; False when there is no room for it."""
        if devbox_id in self._asking:
            return True
        if self._group is None or len(self._asking) >= _MOST:
            return False
        self._asking.add(devbox_id)
        self._group.create_task(self._ask(devbox_id), name=f"greet the guest of {devbox_id}")
        return True

    async def _ask(self, devbox_id: str) -> None:
        try:
            silent = await self._is_silent(devbox_id)
        except Exception as problem:  # noqa: BLE001 - the fallback is the next round
            self._log.error("question failed", devbox=devbox_id, exc_info=problem)
            return
        finally:
            self._asking.discard(devbox_id)
        if silent:
            self._vitals.silence(devbox_id)
            self._on_silent(devbox_id)

    async def _is_silent(self, devbox_id: str) -> bool:
        each_s = self._pace.limit_s / _TRIES
        for _ in range(_TRIES):
            start = self._clock.monotonic()
            try:
                await self._runtime.ping(devbox_id, each_s)
            except BoxUnresponsive:
                # A guest that is refused at once, or speaks nonsense, has its whole time too.
                await self._clock.sleep(each_s - (self._clock.monotonic() - start))
            except RuntimeFailure:
                return False  # its box is gone, which others tell, or busy, which is an answer
            else:
                return False
        return True
