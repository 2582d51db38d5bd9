"""The thread that stands for the guests: it waits for what can be read, and runs what others give it to do.

Owns the selector. It is a thread and not a task because boxes outlive the server and its event loop. Must not know
executions.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable

#: Wake-ups that one look takes away: all that the pipe holds.
WAKES = 65536


class GuestThread:
    """One selector for all commands of a host."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._jobs: deque[Callable[[], None]] = deque()
        self._stopped = False
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._drain)
        self._thread = threading.Thread(target=self._run, name="fake-guests", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the thread, soon."""
        self._jobs.append(job)
        # A full wake pipe will wake the thread as well as another byte would.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_in, b"\0")

    def watch(self, fd: int, ready: Callable[[], object]) -> None:
        """Call `ready` whenever `fd` can be read. Only from the thread."""
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`. Only from the thread."""
        self._selector.unregister(fd)

    def close(self) -> None:
        """Run what was submitted, then end the thread."""
        self.submit(self._stop)
        self._thread.join()
        self._selector.close()
        os.close(self._wake_out)
        os.close(self._wake_in)

    def _stop(self) -> None:
        self._stopped = True

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_out, WAKES)

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select():
                # An earlier one of the same batch may have closed this one, and its number may be another's by now.
                current = self._selector.get_map().get(key.fd)
                if current is not None and current.data is key.data:
                    key.data()
            while self._jobs:
                self._jobs.popleft()()
