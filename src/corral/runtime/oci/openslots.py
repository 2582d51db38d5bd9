"""Slots that the launcher holds open for boxes to come: their namespaces, and the processes that are making some.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import selectors
import time
from dataclasses import dataclass, field

from corral.runtime.network import namespace
from corral.runtime.oci import wire
from corral.runtime.oci.line import Line


@dataclass(slots=True)
class OpenSlots:
    """Slots by their index."""

    line: Line
    slots: dict[int, namespace.Slot] = field(default_factory=dict)
    making: dict[int, namespace.SlotMaker] = field(default_factory=dict)
    outside: namespace.Outside = field(default_factory=namespace.Outside.open)

    def make(self, request: wire.Message) -> None:
        """Begin to make the one that is asked for; the answer follows."""
        began = time.monotonic()
        wish = namespace.SlotWish(**request["slot"])

        def done(error: OSError | None) -> None:
            maker = self.making.pop(wish.index)
            self.line.selector.unregister(maker.channel)
            slot = maker.finish()
            if slot is not None and maker.unwanted:
                slot.close()
                slot = None
            if error is None and slot is not None:
                self.slots[wish.index] = slot
                self.line.answer(request, began, ok=True, user=slot.user_path, net=slot.net_path)
            else:
                text = str(error) if error else "its process ended early"
                code = error.errno if error else 0
                self.line.answer(request, began, ok=False, errno=code, error=f"cannot make namespaces: {text}")

        def advance(_: int) -> None:
            try:
                if maker.advance(self.outside):
                    done(None)
            except OSError as error:
                done(error)

        try:
            maker = namespace.SlotMaker.fork(wish)
        except OSError as error:
            self.line.answer(request, began, ok=False, errno=error.errno, error=f"cannot make namespaces: {error}")
            return
        self.making[wish.index] = maker
        self.line.selector.register(maker.channel, selectors.EVENT_READ, advance)

    def drop(self, index: int) -> None:
        """Let go of one, made or not."""
        slot = self.slots.pop(index, None)
        if slot is not None:
            slot.close()
        elif index in self.making:
            self.making[index].unwanted = True

    def end(self) -> None:
        """Kill what is being made."""
        for maker in self.making.values():
            maker.kill()
