"""Wake-ups for everybody who waits, without a queue and without polling.

Owns who waits. The state that is waited for is the caller's: look, wait, look again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Wake:
    """Waiters sleep until the next `fire`. One event loop only.

    A look at the state and the call of `wait`, with no await in between, cannot miss a `fire`. Who awaits the look
    takes `fires` before it and gives it to `wait`.
    """

    __slots__ = ("_waiters", "fires")

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self.fires = 0  #: how often it has fired

    def fire(self) -> None:
        """Wake all that wait now."""
        self.fires += 1
        waiters, self._waiters = self._waiters, set()
        for future in waiters:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout_s: float, *, since: int | None = None) -> bool:
        """Sleep until the next `fire`, at most `timeout_s` seconds. Return whether it fired.

        Returns at once when it has fired more than `since` times.
        """
        if since is not None and since != self.fires:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(future)
        return True


class Wakes:
    """Wake-ups by name, each there for as long as somebody watches."""

    __slots__ = ("_watched",)

    def __init__(self) -> None:
        self._watched: dict[str, list[Wake]] = {}

    @contextlib.contextmanager
    def watch(self, name: str, wake: Wake | None = None) -> Iterator[Wake]:
        """Give a wake-up, or `wake`, that fires at every `fire` of the name. Enter it before the first look."""
        wake = wake or Wake()
        self._watched.setdefault(name, []).append(wake)
        try:
            yield wake
        finally:
            wakes = self._watched[name]
            wakes.remove(wake)
            if not wakes:
                del self._watched[name]

    def __len__(self) -> int:
        """Names that somebody watches."""
        return len(self._watched)

    def fire(self, name: str) -> None:
        """Wake all that watch the name."""
        for wake in self._watched.get(name, ()):
            wake.fire()
