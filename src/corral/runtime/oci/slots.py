"""Ready slots: a few kept in stock for bursts, made one after the other when the stock is empty.

Owns the stock and its refill task. Must not know boxes.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Final

from corral.core.clock import Clock
from corral.runtime.contract import HostExhausted, HostUnfit, RuntimeFailure
from corral.runtime.network.blocks import Blocks, Plan
from corral.runtime.network.namespace import SlotWish
from corral.runtime.oci.faults import EXHAUSTED
from corral.runtime.oci.launching import LauncherClient

MAKE_LIMIT_S: Final = 20.0
#: A slot's link goes away a moment after its last box: until then its number cannot be used, and another is tried.
ATTEMPTS: Final = 32
REFILL_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ReadySlot:
    """Namespaces that the launcher holds open, by paths that the OCI runtime can join."""

    wish: SlotWish
    user_path: str
    net_path: str


class SlotStock:
    """Up to `size` slots kept ready. `grown` is awaited when a new block of addresses was claimed."""

    def __init__(
        self,
        launcher: LauncherClient,
        blocks: Blocks,
        plan: Plan,
        size: int,
        clock: Clock,
        grown: Callable[[], Awaitable[None]],
    ) -> None:
        self._launcher = launcher
        self._blocks = blocks
        self._plan = plan
        self._size = size
        self._clock = clock
        self._grown = grown
        self._ready: deque[ReadySlot] = deque()
        self._wanted = asyncio.Event()
        self._growing = asyncio.Lock()
        self._refill: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fill the stock."""
        self._wanted.set()
        self._refill = asyncio.create_task(self._keep_full(), name="slots")

    async def close(self) -> None:
        """Stop filling; the launcher's end frees what is in stock."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        self.lose()

    @property
    def ready(self) -> int:
        """How many are in stock."""
        return len(self._ready)

    def lose(self) -> None:
        """The launcher ended, and the stock with it."""
        while self._ready:
            self._blocks.give(self._ready.popleft().wish.index)
        self._wanted.set()

    async def take(self, *, nested: bool = False) -> ReadySlot:
        """A slot from the stock, or a new one, as one for a nested box always is. Raises HostExhausted, HostUnfit."""
        if nested:
            return await self._make(nested=True)
        self._wanted.set()
        return self._ready.popleft() if self._ready else await self._make()

    async def reserve(self) -> SlotWish:
        """What a slot would be, for whoever makes its namespaces otherwise. Raises HostExhausted, HostUnfit."""
        return self._plan.wish(await self._number())

    def give_back(self, index: int) -> None:
        """The box of this slot is gone, or was never made."""
        self._launcher.tell("drop", index=index)
        self._blocks.give(index)

    async def _keep_full(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while len(self._ready) < self._size:
                try:
                    slot = await self._make()
                except (RuntimeFailure, TimeoutError):
                    # The next `take` meets the same cause and tells its caller; here only the pace matters.
                    await self._clock.sleep(REFILL_PAUSE_S)
                    continue
                self._ready.append(slot)

    async def _make(self, *, nested: bool = False) -> ReadySlot:
        for _ in range(ATTEMPTS):
            index = await self._number()
            wish = replace(self._plan.wish(index), nested=nested)
            try:
                answer = await self._launcher.request("slot", MAKE_LIMIT_S, slot=asdict(wish))
            except BaseException:
                self.give_back(index)
                raise
            if answer["ok"]:
                return ReadySlot(wish, answer["user"], answer["net"])
            self.give_back(index)
            if answer["errno"] in EXHAUSTED:
                raise HostExhausted(answer["error"])
            if answer["errno"] not in {errno.EEXIST, errno.EBUSY}:
                raise HostUnfit(answer["error"], remedy="run corral doctor")
        message = f"cannot make namespaces: {ATTEMPTS} addresses in a row are still in use"
        raise HostExhausted(message)

    async def _number(self) -> int:
        while True:
            index = self._blocks.take()
            if index is not None:
                return index
            async with self._growing:
                if not self._blocks.free:
                    if not self._blocks.pending:
                        await asyncio.to_thread(self._blocks.claim)
                    # First the packet filter: no box may have an address that it does not know.
                    await self._grown()
                    self._blocks.admit()
