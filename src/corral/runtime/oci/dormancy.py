"""Boxes that cannot be talked to for now, and will be again: their memory is being written down, or is kept on disk.

Owns who waits for them, and for whose calls they wait. Must not dump, restore or talk to a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable


class Dormancy:
    """`kept` tells whether there is a memory of a box that does not live."""

    def __init__(self, kept: Callable[[str], bool]) -> None:
        self._kept = kept
        self._parked: set[str] = set()
        self._waiting: dict[str, asyncio.Event] = {}
        self._calls: Counter[str] = Counter()

    def park(self, box_id: str) -> None:
        """Its guest takes no calls from here on."""
        self._parked.add(box_id)

    def parked(self, box_id: str) -> bool:
        """Whether the box lives with a parked guest."""
        return box_id in self._parked

    def unpark(self, box_id: str) -> None:
        """Its guest has gone on, or the box is no more."""
        self._parked.discard(box_id)
        self.rouse(box_id)

    def holds(self, box_id: str) -> bool:
        """Whether to wait for the box instead of taking it for gone."""
        return box_id in self._parked or self._kept(box_id)

    async def over(self, box_id: str) -> None:
        """Wait while it is held."""
        while self.holds(box_id):
            await self._change(box_id)

    @contextlib.asynccontextmanager
    async def call(self, box_id: str) -> AsyncIterator[None]:
        """The length of a call of its guest, which waits while that is parked."""
        while box_id in self._parked:
            await self._change(box_id)
        self._calls[box_id] += 1
        try:
            yield
        finally:
            self._calls[box_id] -= 1
            if not self._calls[box_id]:
                del self._calls[box_id]
                self.rouse(box_id)

    async def quiet(self, box_id: str, limit_s: float) -> None:
        """Wait until no call of its guest is at work, for at most `limit_s` seconds. `park` it first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._calls[box_id]:
                    await self._change(box_id)

    async def _change(self, box_id: str) -> None:
        await self._waiting.setdefault(box_id, asyncio.Event()).wait()

    def rouse(self, box_id: str) -> None:
        """Have those who wait look again."""
        waiting = self._waiting.pop(box_id, None)
        if waiting is not None:
            waiting.set()
