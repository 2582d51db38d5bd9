"""The pretended host: what outlives a server. Boxes, their trees, their processes and the spool.

Owns the private folder and the guest thread; `close` removes both, and every process. Also what tests need:
killing boxes, making calls fail or wait.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal as signals
import subprocess
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from corral.runtime.contract import (
    Box,
    BoxExists,
    BoxGone,
    BoxSpec,
    BoxStatus,
    Copied,
    DeathReason,
    NoSuchSnapshot,
    SnapshotExists,
)
from corral.runtime.fake.execution import Execution
from corral.runtime.fake.files import Tree
from corral.runtime.fake.guest import GuestThread
from corral.runtime.fake.launch import MARK
from corral.runtime.spool import Spool

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class FakeBox:
    """A box on the pretended host."""

    spec: BoxSpec
    tree: Tree
    token: str
    reason: DeathReason | None = None
    executions: dict[str, Execution] = field(default_factory=dict)
    memory_peak: int = 0
    stopped: bool = False

    @property
    def box(self) -> Box:
        if self.reason is not None:
            return Box(self.spec.id, BoxStatus.DEAD, reason=self.reason)
        # A fake box has no process 1; the server's own stands for it.
        return Box(self.spec.id, BoxStatus.RUNNING, pid=os.getpid())


class FakeHost:
    """A host to run FakeRuntime on; give the same one to the next FakeRuntime to restart the server.

    `root` is kept when given (for example in a test's tmp_path), else a temporary folder. Use as a context manager,
    or call `close`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._own = root is None
        self.root = Path(tempfile.mkdtemp(prefix="corral-fake-")) if root is None else root
        self.spool = Spool(self.root / "spool")
        self.boxes: dict[str, FakeBox] = {}
        self.guests = GuestThread()
        self._lock = threading.RLock()
        self._mourners: list[Callable[[Box], None]] = []
        self._failures: defaultdict[str, deque[BaseException]] = defaultdict(deque)
        self._held: set[str] = set()
        self._closed = False

    # -- for tests

    def kill_box(self, box_id: str, reason: DeathReason = DeathReason.KILLED) -> None:
        """End the box as if its process 1 had ended for `reason`; its runtime reports the death."""
        with self._lock:
            box = self.boxes[box_id]
            if box.reason is not None:
                return
            box.reason = reason
            self._end(box)
            for tell in list(self._mourners):
                tell(box.box)

    def stop_box(self, box_id: str) -> None:
        """From now on the box's guest does not answer when it is greeted."""
        self.boxes[box_id].stopped = True

    def fail(self, call: str, error: BaseException, times: int = 1) -> None:
        """Make the next `times` calls of the runtime's method `call` raise `error` before they do anything."""
        self._failures[call].extend([error] * times)

    @contextlib.contextmanager
    def held(self, call: str) -> Iterator[None]:
        """Let calls of the runtime's method `call` wait at their start for as long as the context lasts."""
        self._held.add(call)
        try:
            yield
        finally:
            self._held.discard(call)

    def close(self) -> None:
        """End every box and remove everything. Safe to call twice."""
        with self._lock:
            for box_id in list(self.boxes):
                self.remove(box_id)
            if not self._closed:
                self._closed = True
                self.guests.close()
        if self._own:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> FakeHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- for the runtime

    def waits(self, call: str) -> bool:
        """Whether the call has to wait."""
        return call in self._held

    def failure(self, call: str) -> BaseException | None:
        """The error that this call has to raise."""
        planned = self._failures[call]
        return planned.popleft() if planned else None

    def on_death(self, tell: Callable[[Box], None]) -> None:
        self._mourners.append(tell)

    def off_death(self, tell: Callable[[Box], None]) -> None:
        if tell in self._mourners:
            self._mourners.remove(tell)

    def add(self, spec: BoxSpec) -> FakeBox:
        """Make a box. Raises BoxExists."""
        with self._lock:
            if spec.id in self.boxes:
                message = f"cannot create box {spec.id!r}: it exists"
                raise BoxExists(message)
            tree = Tree(self.root / "boxes" / spec.id, spec.user)
            if spec.origin is not None:
                _copy_tree(self._snapshot(spec.origin), tree.root)
            tree.make()
            box = FakeBox(spec, tree, token=str(tree.root))
            self.boxes[spec.id] = box
            return box

    def remove(self, box_id: str) -> None:
        """End a box and remove its tree; nothing when there is none."""
        with self._lock:
            box = self.boxes.pop(box_id, None)
            if box is None:
                return
            if box.reason is None:
                self._end(box)
            _remove_tree(box.tree.root)

    def snapshot(self, box_id: str, name: str) -> Copied:
        """Copy a box's tree. Raises BoxGone, SnapshotExists."""
        with self._lock:
            box = self.boxes.get(box_id)
            if box is None:
                message = f"cannot snapshot box {box_id!r}: there is none"
                raise BoxGone(message)
            if self._snapshots.joinpath(name).exists():
                message = f"cannot make snapshot {name!r}: there is one already"
                raise SnapshotExists(message)
            self._snapshots.mkdir(exist_ok=True)
            pids = processes(box.token)
            try:
                _signal(pids, signals.SIGSTOP)
                _copy_tree(box.tree.root, self._snapshots / name)
            finally:
                _signal(pids, signals.SIGCONT)
            return Copied(disk_bytes(box.tree.root), 0.0, box.spec.layers)

    def snapshot_tree(self, name: str) -> Path:
        """The folder that a snapshot is. Raises NoSuchSnapshot."""
        return self._snapshot(name)

    def new_snapshot(self, name: str) -> Path:
        """An empty one, to be filled. Raises SnapshotExists."""
        with self._lock:
            if self._snapshots.joinpath(name).exists():
                message = f"cannot make snapshot {name!r}: there is one already"
                raise SnapshotExists(message)
            self._snapshots.joinpath(name).mkdir(parents=True)
            return self._snapshots / name

    def copy_snapshot(self, source: str, name: str) -> None:
        """Copy a snapshot. Raises NoSuchSnapshot, SnapshotExists."""
        with self._lock:
            found = self._snapshot(source)
            if self._snapshots.joinpath(name).exists():
                message = f"cannot make snapshot {name!r}: there is one already"
                raise SnapshotExists(message)
            _copy_tree(found, self._snapshots / name)

    def forget_snapshot(self, name: str) -> None:
        """Remove a snapshot; nothing when there is none."""
        with self._lock:
            if self._snapshots.joinpath(name).exists():
                _remove_tree(self._snapshots / name)

    def snapshots(self) -> list[str]:
        """Names of snapshots."""
        return sorted(path.name for path in self._snapshots.iterdir()) if self._snapshots.exists() else []

    @property
    def _snapshots(self) -> Path:
        return self.root / "snapshots"

    def _snapshot(self, name: str) -> Path:
        if not self._snapshots.joinpath(name).exists():
            message = f"cannot use snapshot {name!r}: there is none"
            raise NoSuchSnapshot(message)
        return self._snapshots / name

    def _end(self, box: FakeBox) -> None:
        for execution in box.executions.values():
            execution.lose()
            execution.kill()
        for _ in range(100):
            pids = processes(box.token)
            if not pids:
                return
            _signal(pids, signals.SIGKILL)
            threading.Event().wait(0.005)
        message = f"cannot end box {box.spec.id!r}: processes {processes(box.token)} survive SIGKILL"
        raise RuntimeError(message)


def processes(token: str) -> list[int]:
    """Processes of the box with this token: by the mark in their environment, so that daemons are found too."""
    mark = f"{MARK}={token}\0".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end, or belong to somebody else, while it is looked at.
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
    return found


def resident_bytes(pids: list[int]) -> int:
    """Memory of the processes, shared pages counted in each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return total


def cpu_us(pids: list[int]) -> int:
    """User and system time of the processes, in microseconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def disk_bytes(root: Path) -> int:
    """Disk space that the tree takes."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_blocks * 512
    return total


def _copy_tree(source: Path, target: Path) -> None:
    """With hard links, holes, modes and times."""
    subprocess.run(["cp", "--archive", "--no-target-directory", "--", str(source), str(target)], check=True)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _remove_tree(root: Path) -> None:
    """Remove all, also folders that the box has made unreadable for their owner."""
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root)
