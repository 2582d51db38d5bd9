"""One box's control group: what it counted, who is in it, and removing it.

Only ever touches folders named `<parent>/<box>`: names of the data folder and the box, never from the box's inside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.runtime.cgroup.layout import NEEDED, Layout

#: A group stays busy for a moment after its last process was reaped.
REMOVE_FOR_S: Final = 5.0
#: A process in the middle of a write to a slow disk stands still only after it.
FREEZE_FOR_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.001
#: What its owner needs to divide a group; the limits stay with the host's root.
DELEGATED: Final = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
#: Groups that a box may make below its own.
MOST_GROUPS: Final = 256

#: Bytes of a file of counters; the longest, memory.stat, has some 3 KiB.
_LONGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the group was made. Bytes, tasks, microseconds."""

    cpu_us: int
    memory: int
    cache: int
    memory_peak: int
    pids: int
    oom_kills: int


def open_parent(layout: Layout, parent: str) -> None:
    """Make the folder that is above the groups of boxes. Idempotent.

    On version 1 a new group has no processors until somebody writes them, at which the kernel compares it with all
    others, twice for each box; with `clone_children` it has those of its parent from the start.
    """
    if layout.version == 2 or "cpuset" not in layout.controllers:
        return
    root = layout.controllers["cpuset"]
    folder = root / parent
    folder.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        (folder / name).write_text((root / name).read_text())
    (folder / "cgroup.clone_children").write_text("1")


@dataclass(frozen=True, slots=True)
class Group:
    """The control group `<parent>/<name>` in every hierarchy of the layout."""

    layout: Layout
    parent: str
    name: str

    @property
    def path(self) -> str:
        """As a bundle names it."""
        return f"/{self.parent}/{self.name}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folder in each hierarchy, whether it is there or not."""
        second = () if self.layout.second is None else (self.layout.second,)
        return tuple(root / self.parent / self.name for root in (*self.layout.roots, *second))

    def exists(self) -> bool:
        """Whether any hierarchy has it."""
        return any(folder.is_dir() for folder in self.folders)

    def counters(self) -> Counters:
        """Read them. Raises FileNotFoundError when the group is gone."""
        if self.layout.version == 2:
            folder = self._folder("memory")
            current = _number(folder / "memory.current")
            # memory.peak came with Linux 5.19.
            peak = _number(folder / "memory.peak") if (folder / "memory.peak").exists() else current
            return Counters(
                cpu_us=_keyed(folder / "cpu.stat").get("usage_usec", 0),
                memory=current,
                cache=_keyed(folder / "memory.stat").get("inactive_file", 0),
                memory_peak=peak,
                pids=_number(folder / "pids.current"),
                oom_kills=_keyed(folder / "memory.events").get("oom_kill", 0),
            )
        return Counters(
            cpu_us=_number(self._folder("cpuacct") / "cpuacct.usage") // 1000,
            memory=_number(self._folder("memory") / "memory.usage_in_bytes"),
            cache=_keyed(self._folder("memory") / "memory.stat").get("total_inactive_file", 0),
            memory_peak=_number(self._folder("memory") / "memory.max_usage_in_bytes"),
            pids=_number(self._folder("pids") / "pids.current"),
            oom_kills=self.oom_kills(),
        )

    def make(self, resources: Mapping[str, Any]) -> list[Path]:
        """Make the group with the limits of `limit`, as an OCI runtime would have; returns the folders to join it in.

        Raises OSError.
        """
        folders = [root / self.parent / self.name for root in self.layout.roots]
        for folder in folders:
            if self.layout.version == 2:
                folder.parent.mkdir(exist_ok=True)
                wanted = " ".join(f"+{name}" for name in NEEDED)
                for above in (folder.parent.parent, folder.parent):
                    (above / "cgroup.subtree_control").write_text(wanted)
            folder.mkdir(parents=True, exist_ok=True)
        self.limit(resources)
        return folders

    def limit(self, resources: Mapping[str, Any]) -> None:
        """Set what `resources` (as in a bundle: `cpu`, `memory`, `pids`) say. Raises OSError."""
        cpu, memory, pids = resources["cpu"], resources["memory"], resources["pids"]
        if self.layout.version == 2:
            self._set("cpu", "cpu.max", cpu["quota"])
            self._set("memory", "memory.max", memory["limit"])
            if "swap" in memory:
                self._set("memory", "memory.swap.max", memory["swap"] - memory["limit"])
        else:
            self._set("cpu", "cpu.cfs_quota_us", cpu["quota"])
            self._limit_memory(memory)
        self._set("pids", "pids.max", pids["limit"])

    def _limit_memory(self, memory: Mapping[str, int]) -> None:
        """On version 1 the limit of memory and swap together must at no time be under that of memory."""
        writes = [("memory.limit_in_bytes", memory["limit"])]
        if "swap" in memory:
            writes.append(("memory.memsw.limit_in_bytes", memory["swap"]))
        if memory["limit"] > _number(self._folder("memory") / "memory.limit_in_bytes"):
            writes.reverse()
        if "kernelTCP" in memory:
            writes.append(("memory.kmem.tcp.limit_in_bytes", memory["kernelTCP"]))
        for name, value in writes:
            self._set("memory", name, value)

    def _set(self, controller: str, name: str, value: object) -> None:
        fd = os.open(self._folder(controller) / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)

    def delegate(self, owner: int) -> None:
        """Let user `owner` divide the group on version 2, into MOST_GROUPS at most: each takes kernel memory.

        Beside version 1 the group is made, and has no controllers: the limits are those of version 1, where nobody may
        divide anything. Where version 2 is all that there is, the group is there. Raises OSError.
        """
        folder = self._divisible
        if folder is None:
            raise OSError(errno.ENOENT, "version 2 of control groups is not mounted")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.max.descendants").write_text(str(MOST_GROUPS))
        for path in (folder, *(folder / name for name in DELEGATED)):
            os.chown(path, owner, owner)

    @property
    def _divisible(self) -> Path | None:
        """Its folder on version 2; None when that is not mounted."""
        root = self.layout.second if self.layout.version == 1 else self.layout.controllers["memory"]
        return None if root is None else root / self.parent / self.name

    @property
    def freezer(self) -> Path | None:
        """The folder with which a dump lets the group stand still; None where the host has none."""
        return self._folder("memory" if self.layout.version == 2 else "freezer") if self.can_freeze else None

    @property
    def can_freeze(self) -> bool:
        """Whether the host has what `freeze` needs."""
        return self.layout.version == 2 or "freezer" in self.layout.controllers

    def freeze(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Let no process of the group run. Blocks until none does. Raises OSError (ETIMEDOUT) after FREEZE_FOR_S."""
        deadline = monotonic() + FREEZE_FOR_S
        self._set_frozen(True)
        while not self._is_frozen():
            if monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"processes did not stand still within {FREEZE_FOR_S:.0f} s")
            time.sleep(_FIRST_PAUSE_S)  # noqa: TID251 - called on a worker thread, which has no event loop

    def thaw(self) -> None:
        """Let the processes of the group run on. Idempotent; a group that is gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:  # noqa: FBT001 - the value that is written
        if self.layout.version == 2:
            self._set("memory", "cgroup.freeze", int(frozen))
        else:
            self._set("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")

    def _is_frozen(self) -> bool:
        if self.layout.version == 2:
            return bool(_keyed(self._folder("memory") / "cgroup.events").get("frozen"))
        return (self._folder("freezer") / "freezer.state").read_text().strip() == "FROZEN"

    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed for its memory limit."""
        name = "memory.events" if self.layout.version == 2 else "memory.oom_control"
        return _keyed(self._folder("memory") / name).get("oom_kill", 0)

    def processes(self) -> set[int]:
        """Host ids of every process in the group, groups below it too; empty when it is gone."""
        found: set[int] = set()
        for folder in self.folders:
            for inner, _, _ in os.walk(folder):
                with contextlib.suppress(FileNotFoundError, OSError):
                    found |= {int(pid) for pid in (Path(inner) / "cgroup.procs").read_text().split()}
        return found - {0}

    def kill(self) -> None:
        """Send SIGKILL to every process in the group."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Remove the group, waiting while it is busy. Blocks for at most REMOVE_FOR_S, then raises the OSError."""
        deadline = monotonic() + REMOVE_FOR_S
        pause = _FIRST_PAUSE_S
        for folder in self.folders:
            while not _removed(folder, last=monotonic() > deadline):
                self.kill()
                time.sleep(pause)  # noqa: TID251 - called on a worker thread, which has no event loop
                pause = min(pause * 2, 0.1)

    def _folder(self, controller: str) -> Path:
        return self.layout.controllers[controller] / self.parent / self.name


def _removed(folder: Path, *, last: bool) -> bool:
    """Try to remove a group and the groups below it, the lowest first. False when it is busy; raises if `last`."""
    try:
        for inner, _, _ in os.walk(folder, topdown=False):
            os.rmdir(inner)
    except FileNotFoundError:
        return not folder.exists()
    except OSError as error:
        if last or error.errno != errno.EBUSY:
            raise
        return False
    return True


def _number(path: Path) -> int:
    return int(_read(path))


def _keyed(path: Path) -> dict[str, int]:
    """A flat file of `<key> <number>` lines."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0].decode(): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: Path) -> bytes:
    """A file of the kernel's, in one call: thousands of them are read in a round, and `open` costs more than that."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST)
    finally:
        os.close(fd)
