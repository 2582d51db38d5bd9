"""A server that kills itself at the n-th step of what makes and removes boxes and copies, counted since it was armed:
`python -m tests.crash.points HOST:PORT DATA`.

Owns what a step is: a commit, a call of the disk pool, of a control group, of the launcher, of a guest that is
claimed, a write of a box's record, a removal; each is two, before and after. The parts themselves are the real ones.
It is armed by the file `armed` in the data folder, which has the number n; `steps` beside it gets the name of each
that is counted.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import uvloop

from corral import daemon
from corral.core import events, log
from corral.core.settings import load
from corral.core.store.store import Store
from corral.runtime.cgroup.group import Group
from corral.runtime.guest import GuestClient
from corral.runtime.oci import record, removal
from corral.runtime.oci.checkpoints import Checkpoints
from corral.runtime.oci.launching import LauncherClient
from corral.runtime.oci.memories import Memories
from corral.runtime.rootfs.btrfs_pool import BtrfsPool

#: (owner, its functions that are steps)
STEPS: Final[tuple[tuple[Any, tuple[str, ...]], ...]] = (
    (BtrfsPool, ("flush", "snapshot", "copy_snapshot", "delete_snapshot", "prepare", "resize", "delete")),
    (Group, ("freeze", "thaw", "remove")),
    (record, ("write",)),
    (removal, ("end", "remove_tree")),
    (Checkpoints, ("_rewrite", "_commit")),
    (Memories, ("share", "commit")),
)
#: Those that take their time, on the loop.
LONG_STEPS: Final[tuple[tuple[Any, tuple[str, ...]], ...]] = (
    (LauncherClient, ("request",)),
    (GuestClient, ("claim", "park", "wake")),
    (Checkpoints, ("dump", "copy", "restore")),
)
#: Seconds after their begin at which these can be cut off, beside before and after.
INSIDE_S: Final = (0.002, 0.006)


class Counter:
    """Counts steps once it is armed, from any thread, and kills the process at the one that was asked for."""

    def __init__(self, data: Path) -> None:
        self._armed, self._steps = data / "armed", data / "steps"
        self._lock = threading.Lock()
        self._count = self._at = 0

    def step(self, name: str) -> None:
        """Die here, if it is the one."""
        with self._lock:
            if not self._at:
                if not self._armed.exists():
                    return
                self._at = int(self._armed.read_text())
            self._count += 1
            with self._steps.open("a") as told:
                told.write(f"{name}\n")
            if self._count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


def watch(counter: Counter) -> None:
    """Have all that is a step counted."""
    for owner, names in STEPS:
        for name in names:
            label = f"{owner.__name__.rpartition('.')[2]}.{name}"
            setattr(owner, name, _counted(counter, label, getattr(owner, name)))
    for owner, names in LONG_STEPS:
        for name in names:
            setattr(owner, name, _counted_long(counter, f"{owner.__name__}.{name}", getattr(owner, name)))


def _counted(counter: Counter, label: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inner)
    def outer(*given: Any, **named: Any) -> Any:
        counter.step(f"{label} before")
        result = inner(*given, **named)
        counter.step(f"{label} after")
        return result

    return outer


def _counted_long(
    counter: Counter, label: str, inner: Callable[..., Coroutine[Any, Any, Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(inner)
    async def outer(*given: Any, **named: Any) -> Any:
        counter.step(f"{label} before")
        timers = [
            asyncio.get_running_loop().call_later(delay, counter.step, f"{label} inside, after {delay:g} s")
            for delay in INSIDE_S
        ]
        try:
            result = await inner(*given, **named)
        finally:
            for timer in timers:
                timer.cancel()
        counter.step(f"{label} after")
        return result

    return outer


class Counted(Store):
    """Its commits are steps."""

    counter: Counter

    def commit(self, connection: sa.Connection) -> None:
        self.counter.step("commit before")
        super().commit(connection)
        self.counter.step("commit after")


class Victim(daemon.Daemon):
    """The server as it is, but for its store."""

    def make_store(self, database: sa.Engine, feed: events.Feed) -> Store:
        return Counted(database, feed)


def main(listen: str, data: str) -> int:
    Counted.counter = Counter(Path(data))
    watch(Counted.counter)
    settings = load(os.environ, listen=listen, data=Path(data))
    log.configure()
    return uvloop.run(Victim(settings).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
