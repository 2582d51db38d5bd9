"""The loop that tells the store what this server needs, and removes what nobody does.

Owns the order in which users of layers are asked. Must not know what they are: each is a question for layers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from corral.core import log
from corral.core.clock import Clock
from corral.core.reconcile import rounds
from corral.images.service import Images
from corral.runtime.contract import Layer

#: Seconds between two rounds: what nobody needs takes disk and nothing else.
_EVERY_S: Final = 3600.0

Uses = Callable[[], Awaitable[Iterable[Layer]]]


class UsesOfBoxes(Protocol):
    """Layers of boxes; only of those that outlive the server, when `lasting`."""

    def __call__(self, *, lasting: bool = False) -> Awaitable[Iterable[Layer]]: ...


class LayerSweeper:
    """Removes layers that are needed no more. `run` until cancelled.

    `boxes` are asked before and after `rows`: what moves from one to the other meanwhile is seen with one of them.
    What was pulled for builds goes when none has asked for it for `keep_s` seconds.
    """

    def __init__(
        self, images: Images, boxes: UsesOfBoxes, rows: Sequence[Uses], *, clock: Clock, keep_s: float
    ) -> None:
        self._images = images
        self._boxes = boxes
        self._rows = rows
        self._clock = clock
        self._keep_s = keep_s
        self._log = log.get("images.sweeper")

    async def run(self) -> None:
        """Work until cancelled."""
        await rounds(self.sweep, first_s=_EVERY_S, every_s=_EVERY_S, clock=self._clock, part="images.sweeper")

    async def sweep(self) -> None:
        """One round."""
        used = await self._boxes(), await self._used_by_rows(), await self._boxes()
        collected = await self._images.collect(set[Layer]().union(*used), keep_s=self._keep_s)
        if collected is not None and collected.names:
            self._log.info("removed names of images that no build asks for", names=" ".join(collected.names))
        if collected is not None and collected.layers:
            self._log.info("removed layers", layers=len(collected.layers), bytes=collected.size)

    async def leave(self) -> None:
        """The server ends: only what lasts without it is needed."""
        self._images.leave({*await self._boxes(lasting=True), *await self._used_by_rows()})

    async def _used_by_rows(self) -> set[Layer]:
        return {layer for ask in self._rows for layer in await ask()}
