"""Boxes that are made before anybody asks, so that a create only has to claim one.

Owns which boxes are prepared, for which images and when. An accelerator only: whatever is not ready here is made as if
this did not exist. Must not claim a box: the driver does, and gives back to nobody what a claim has touched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from corral.core import log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.tasks import settled
from corral.runtime.contract import BoxSpec, Layer, Limits, RuntimeFailure
from corral.runtime.linux.meminfo import available_share
from corral.runtime.oci.host import Host
from corral.runtime.oci.record import Living

#: Images that were asked for last keep boxes; those of others are given up.
IMAGES: Final = 4
#: Less memory than this share of the host's is for boxes that somebody has asked for.
LEAST_FREE: Final = 0.1
#: After a create, its caller's first command has the cores.
QUIET_S: Final = 0.05
LOOK_AGAIN_S: Final = 0.02
FAILED_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

Layers = tuple[Layer, ...]


class BoxStock:
    """Up to `size` prepared boxes for each of the images that were asked for last. `greet` waits for a box's guest."""

    def __init__(self, host: Host, size: int, clock: Clock, greet: Callable[[Living], Awaitable[None]]) -> None:
        self._host = host
        self._size = size
        self._clock = clock
        self._ids = Ids(clock)
        self._greet = greet
        #: Prepared boxes by image, the one that was asked for last at the end.
        self._shelves: OrderedDict[Layers, deque[Living]] = OrderedDict()
        self._unwanted: deque[Living] = deque()
        self._wanted = asyncio.Event()
        self._creating = 0
        self._quiet_at = 0.0
        self._refill: asyncio.Task[None] | None = None
        self._log = log.get("warm")

    def start(self) -> None:
        """Begin to prepare boxes of images that are expected."""
        if self._size:
            self._refill = asyncio.create_task(self._keep_full(), name="prepared boxes")

    async def close(self) -> None:
        """Stop preparing. Boxes that are prepared are the host's to remove."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        self._shelves.clear()
        self._unwanted.clear()

    @property
    def ready(self) -> int:
        """How many boxes could be claimed."""
        return sum(map(len, self._shelves.values()))

    @property
    def layers(self) -> set[Layer]:
        """Layers of the images that boxes are prepared of."""
        return {layer for layers in self._shelves for layer in layers}

    def expect(self, layers: Layers) -> None:
        """Have boxes of this image ready from now on."""
        if not self._size:
            return
        self._shelves.setdefault(layers, deque())
        self._shelves.move_to_end(layers)
        while len(self._shelves) > IMAGES:
            self._unwanted += self._shelves.popitem(last=False)[1]
        self._wanted.set()

    def take(self, spec: BoxSpec) -> Living | None:
        """A prepared box of the image that `spec` asks for; it is the caller's to hand over or to discard."""
        self.expect(spec.layers)
        if spec.origin is not None or spec.nested or spec.lent:
            return None  # they have disks of their own, or what a box cannot be given afterwards
        shelf = self._shelves.get(spec.layers)
        return shelf.popleft() if shelf else None

    def lost(self, living: Living) -> bool:
        """A prepared box has ended. Whether it was here; else it is being claimed, and the claimer's to discard."""
        for boxes in (*self._shelves.values(), self._unwanted):
            if living in boxes:
                boxes.remove(living)
                self._wanted.set()
                return True
        return False

    @contextlib.contextmanager
    def making_room(self) -> Iterator[None]:
        """While somebody waits for a box, none is prepared."""
        self._creating += 1
        try:
            yield
        finally:
            self._creating -= 1
            self._quiet_at = self._clock.monotonic() + QUIET_S

    async def _keep_full(self) -> None:
        pause = FAILED_PAUSE_S
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._unwanted or self._lacking() is not None:
                await self._quiet()
                try:
                    await self._step()
                    pause = FAILED_PAUSE_S
                except (RuntimeFailure, OSError, TimeoutError) as problem:
                    # A create meets the same cause, and tells its caller.
                    self._log.warning("cannot prepare a box", cause=str(problem), again_s=pause)
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)

    def _lacking(self) -> Layers | None:
        """The image asked for last that has too few boxes."""
        return next((image for image in reversed(self._shelves) if len(self._shelves[image]) < self._size), None)

    async def _quiet(self) -> None:
        while self._creating or self._clock.monotonic() < self._quiet_at or available_share() < LEAST_FREE:
            await self._clock.sleep(LOOK_AGAIN_S if self._creating else QUIET_S)

    async def _step(self) -> None:
        if self._unwanted:
            await self._host.discard(self._unwanted.popleft().record.handle)
        elif (image := self._lacking()) is not None:
            living = await self._prepare(image)
            # Meanwhile the image may have become one of those that nobody asks for.
            self._shelves.get(image, self._unwanted).append(living)

    async def _prepare(self, image: Layers) -> Living:
        handle = self._ids.new("warm")
        try:
            living = await self._host.make_ahead(BoxSpec(handle, image, hostname="box", limits=Limits()))
            await self._greet(living)
        except BaseException:
            await settled(self._host.discard(handle))
            raise
        return living
