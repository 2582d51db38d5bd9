"""The process that makes boxes: small, single-threaded, standard library only; it ends with the server (EOF).

It lives in a mount namespace of its own with few mounts, since each box starts from a copy of it. For each box it
forks a child that mounts the root filesystem where nobody else sees it, and becomes the OCI runtime. Requests and
answers are frames (`corral.runtime.oci.wire`); many may be in flight. Decides nothing: requests say what to do.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.runtime.linux import mounts, syscalls
from corral.runtime.oci import becoming, reports, wire
from corral.runtime.oci.line import Line
from corral.runtime.oci.openslots import OpenSlots

#: More runtimes than this at once only wait for each other's locks and cores.
RUNTIMES_PER_CORE: Final = 2
#: The end of a box, and of what a runtime forked, is looked for this often at most: the kernel walks all children, and
#: every box is one. The end of a runtime, somebody waits for: it is looked for at once, by its number.
SWEEP_S: Final = 0.05
#: For a dump to end when the server is gone: less than the next one waits for this process to end.
DUMP_REST_S: Final = 15.0


@dataclass(slots=True)
class Launch:
    """One OCI runtime at work."""

    request: wire.Message
    report: int
    began: float


@dataclass(slots=True)
class Launcher:
    """All state of the process. `run` returns when the server has closed its end."""

    sock: socket.socket
    limit: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    waiting: deque[wire.Message] = field(default_factory=deque)
    launches: dict[int, Launch] = field(default_factory=dict)
    boxes: set[int] = field(default_factory=set)
    line: Line = field(init=False)
    open_slots: OpenSlots = field(init=False)
    _wake: int = -1
    _sweep_at: float | None = None

    def __post_init__(self) -> None:
        self.line = Line(self.sock, self.selector, self._heard)
        self.open_slots = OpenSlots(self.line)

    def run(self) -> None:
        """Serve until the server is gone, then end what was half-made."""
        wake, notify = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(wake, selectors.EVENT_READ, self._children)
        self.line.listen()
        self._wake = wake
        try:
            while self.line.open:
                for key, events in self.selector.select(self._until_sweep()):
                    key.data(events)
                if self._until_sweep() == 0:
                    self._sweep()
        finally:
            self._end_children()

    # ---------------------------------------------------------------- what the server asks for

    def _heard(self, messages: Sequence[wire.Message]) -> None:
        for message in messages:
            self._handle(message)
        self._fill()

    def _handle(self, message: wire.Message) -> None:
        match message["op"]:
            case "launch" | "dump" | "restore":
                self.waiting.append(message)
            case "slot":
                self.open_slots.make(message)
            case "drop":
                self.open_slots.drop(message["index"])
            case "abort":
                self._abort(message["box"])

    # ---------------------------------------------------------------- boxes

    def _fill(self) -> None:
        while self.waiting and len(self.launches) < self.limit:
            self._start(self.waiting.popleft())

    def _start(self, request: wire.Message) -> None:
        began = time.monotonic()
        report, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report)
            os.close(told)
            self.line.answer(request, began, ok=False, errno=error.errno, error=f"cannot fork: {error}")
            return
        if pid == 0 and request["op"] == "launch":
            becoming.become_runtime(request, self.open_slots.slots[request["index"]], told)
        elif pid == 0:
            becoming.become_criu(request, told)
        os.close(told)
        self.launches[pid] = Launch(request, report, began)

    def _abort(self, box: str) -> None:
        for request in [request for request in self.waiting if request["box"] == box]:
            self.waiting.remove(request)
            self.line.answer(request, time.monotonic(), ok=False, errno=0, error="aborted")
        for pid, launch in self.launches.items():
            if launch.request["box"] == box:
                os.kill(pid, signal.SIGKILL)

    def _children(self, _: int) -> None:
        os.read(self._wake, 4096)
        for launched in list(self.launches):
            pid, status = os.waitpid(launched, os.WNOHANG)
            self._ended(pid, status)
        self._fill()
        if self._sweep_at is None:
            self._sweep_at = time.monotonic() + SWEEP_S

    def _until_sweep(self) -> float | None:
        return None if self._sweep_at is None else max(0.0, self._sweep_at - time.monotonic())

    def _sweep(self) -> None:
        """Reap all that has ended: boxes, makers of namespaces, what runtimes left."""
        self._sweep_at = None
        pid = -1
        while pid:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            self._ended(pid, status)
        self._fill()

    def _ended(self, pid: int, status: int) -> None:
        self.boxes.discard(pid)
        launch = self.launches.pop(pid, None)
        if launch is not None:
            self._launched(launch, os.waitstatus_to_exitcode(status))

    def _launched(self, launch: Launch, code: int) -> None:
        request = launch.request
        told = reports.read(launch.report)
        if request["op"] == "launch":
            self.open_slots.drop(request["index"])
        log = reports.tail(Path(request["log"]))
        if request["op"] == "dump":
            cause = told.get("error") or log
            self.line.answer(request, launch.began, ok=code == 0, errno=told.get("errno", 0), error=cause, code=code)
            return
        try:
            pid = int(Path(request["pid_file"]).read_text()) if code == 0 else 0
        except (OSError, ValueError):
            pid = 0
        if pid:
            self.boxes.add(pid)
            self.line.answer(request, launch.began, ok=True, pid=pid, setup_ms=told.get("ms", 0.0))
            return
        self._end_runtime(request["box"])
        cause = told.get("error") or log or f"the runtime ended with {code} and said nothing"
        self.line.answer(request, launch.began, ok=False, errno=told.get("errno", 0), error=cause)

    def _end_runtime(self, box: str) -> None:
        """Kill and reap what a killed runtime has left of a box, so that nothing more is made after the answer.

        crun makes the box in a process that it forks and detaches: it outlives the one that was started here, comes to
        this process as a child, and has the same arguments until it becomes the guest (which its cgroup leads to).
        """
        while left := [pid for pid in _children() if pid not in self.boxes and _is_for(pid, box)]:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _end_children(self) -> None:
        """The server is gone: nothing half-made may go on. Boxes that were reported stay.

        A dump may end by itself: it is at work in the box's processes, and only it takes itself out of them again.
        """
        self.open_slots.end()
        dumps = {pid for pid, launch in self.launches.items() if launch.request["op"] == "dump"}
        for pid in self.launches.keys() - dumps:
            os.kill(pid, signal.SIGKILL)
        self._await_ended(5 if not dumps else DUMP_REST_S)
        for pid in self.launches:
            os.kill(pid, signal.SIGKILL)
        # What an ended runtime had already forked is now a child of this process: not a box that anybody knows.
        for pid in _children() - self.boxes:
            os.kill(pid, signal.SIGKILL)

    def _await_ended(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while self.launches and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            self.launches.pop(pid, None)
            if pid == 0:
                time.sleep(0.01)  # noqa: TID251 - this process has no event loop to sleep in


def _children() -> set[int]:
    return {int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _is_for(pid: int, box: str) -> bool:
    """Whether a process is a runtime that makes this box. One that has ended has no arguments any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2] == box.encode()
    except (FileNotFoundError, ProcessLookupError):
        return False


def main(read_fd: int, keep: list[str]) -> None:
    """Set the process up and serve on the socket `read_fd`. `keep` names paths whose mounts must stay."""
    os.setsid()
    sock = socket.socket(fileno=read_fd)
    sock.set_inheritable(False)
    syscalls.prctl(syscalls.PR_SET_NAME, b"corral-launcher")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Slave, not private: an unmount on the host must not be held up by the copy here.
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    mounts.drop_unneeded(keep)
    # Children copy this heap: what the collector never touches again stays shared with them.
    gc.collect()
    gc.freeze()
    Launcher(sock, limit=RUNTIMES_PER_CORE * (os.cpu_count() or 1)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
