"""The launcher's end of the line to the server, which never blocks.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.runtime.oci import wire


@dataclass(slots=True)
class Line:
    """Registered with `selector` once it is `listen`ed to; `open` until the server is gone."""

    sock: socket.socket
    selector: selectors.BaseSelector
    heard: Callable[[Sequence[wire.Message]], None]
    open: bool = True
    _decoder: wire.Decoder = field(default_factory=wire.Decoder)
    _outgoing: bytearray = field(default_factory=bytearray)

    def listen(self) -> None:
        """Have `heard` called with what the server sends."""
        self.sock.setblocking(False)
        self.selector.register(self.sock, selectors.EVENT_READ, self._traffic)

    def answer(self, request: wire.Message, began: float, **fields: Any) -> None:
        """Answer a request that was begun at `began`, by the monotonic clock."""
        took = round((time.monotonic() - began) * 1000, 3)
        self._outgoing += wire.encode({"id": request["id"], "ms": took, **fields})
        self._flush()

    def _traffic(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if not events & selectors.EVENT_READ:
            return
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.open = False
            return
        self.heard(self._decoder.feed(data))

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self.sock.send(self._outgoing)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.open = False
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        self.selector.modify(self.sock, wanted, self._traffic)
