"""Who looks on at an execution: those who wait for its output to grow, and those who read it as it comes.

Owns what a viewer has not read yet, and the bound on it. What is fed on the guest thread is taken on an event loop.
Must not know where the output comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial

from corral.runtime.contract import MIB, Stream

#: A viewer that lets this much pile up is cut off, so that it cannot hold the command back.
VIEWER_LIMIT = 4 * MIB

#: A patient viewer holds the command back when this much piles up, until half of it is taken.
PATIENT_LIMIT = 256 * 1024


class Watch:
    """Tells one event loop that an execution's output has grown, or that it has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()

    def notify(self, *, ended: bool) -> None:
        """Wake the waiter. From any thread."""
        # RuntimeError: the loop has closed while its server was "killed"; there is nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(partial(self._set, ended=ended))

    def _set(self, *, ended: bool) -> None:
        self.changed.set()
        if ended:
            self.ended.set()


class Viewer:
    """What one attached reader has not read yet."""

    def __init__(self, stream: Stream, replay: bytes, *, patient: bool, on_room: Callable[[], None]) -> None:
        self.stream, self.patient = stream, patient
        self.watch = Watch()
        self._on_room = on_room
        self._lock = threading.Lock()
        self._waiting = bytearray(replay)
        self._closed = False

    @property
    def holds(self) -> bool:
        """Whether its stream must wait for it."""
        return self.patient and not self._closed and len(self._waiting) > PATIENT_LIMIT

    def feed(self, data: bytes) -> None:
        """Add output. From the guest thread."""
        with self._lock:
            if not self.patient and len(self._waiting) + len(data) > VIEWER_LIMIT:
                self._closed = True
            elif not self._closed:
                self._waiting += data
        self.watch.notify(ended=False)

    def close(self) -> None:
        """Let the reader have what there is, then the end. From any thread."""
        with self._lock:
            self._closed = True
        self.watch.notify(ended=True)

    async def take(self, limit: int) -> bytes:
        """The next bytes, waiting for some; b"" at the end."""
        while True:
            self.watch.changed.clear()
            with self._lock:
                data = bytes(self._waiting[:limit])
                del self._waiting[:limit]
                closed = self._closed
            if self.patient and data and len(self._waiting) <= PATIENT_LIMIT // 2:
                self._on_room()
            if data or closed:
                return data
            await self.watch.changed.wait()
