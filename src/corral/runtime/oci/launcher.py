"""The process that makes boxes: small, single-threaded, standard library only; it ends with the server (EOF).

It lives in a mount namespace of its own with few mounts, since each box starts from a copy of it. For each box it
forks a child that mounts the root filesystem where nobody else sees it, and becomes the OCI runtime. Requests and
answers are frames (`corral.runtime.oci.wire`); many may be in flight. Decides nothing: requests say what to do.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.runtime.linux import mounts, syscalls
from corral.runtime.network import namespace
from corral.runtime.oci import delegation, restoring, wire
from corral.runtime.rootfs import steps

#: More runtimes than this at once only wait for each other's locks and cores.
RUNTIMES_PER_CORE: Final = 2
#: The end of a box, and of what a runtime forked, is looked for this often at most: the kernel walks all children, and
#: every box is one. The end of a runtime, somebody waits for: it is looked for at once, by its number.
SWEEP_S: Final = 0.05
LOG_LIMIT: Final = 4096
#: For a dump to end when the server is gone: less than the next one waits for this process to end.
DUMP_REST_S: Final = 15.0
LISTEN_BACKLOG: Final = 128
_GUEST_FD: Final = 3


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
    decoder: wire.Decoder = field(default_factory=wire.Decoder)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    waiting: deque[wire.Message] = field(default_factory=deque)
    launches: dict[int, Launch] = field(default_factory=dict)
    slots: dict[int, namespace.Slot] = field(default_factory=dict)
    making: dict[int, namespace.SlotMaker] = field(default_factory=dict)
    boxes: set[int] = field(default_factory=set)
    outgoing: bytearray = field(default_factory=bytearray)
    outside: namespace.Outside = field(default_factory=namespace.Outside.open)
    open: bool = True
    _wake: int = -1
    _sweep_at: float | None = None

    def run(self) -> None:
        """Serve until the server is gone, then end what was half-made."""
        wake, notify = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.sock.setblocking(False)
        self.selector.register(wake, selectors.EVENT_READ, self._children)
        self.selector.register(self.sock, selectors.EVENT_READ, self._traffic)
        self._wake = wake
        try:
            while self.open:
                for key, events in self.selector.select(self._until_sweep()):
                    key.data(events)
                if self._until_sweep() == 0:
                    self._sweep()
        finally:
            self._end_children()

    # ---------------------------------------------------------------- traffic with the server

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
        for message in self.decoder.feed(data):
            self._handle(message)
        self._fill()

    def _handle(self, message: wire.Message) -> None:
        match message["op"]:
            case "launch" | "dump" | "restore":
                self.waiting.append(message)
            case "slot":
                self._make_slot(message)
            case "drop":
                self._drop_slot(message["index"])
            case "abort":
                self._abort(message["box"])

    def _send(self, message: wire.Message) -> None:
        self.outgoing += wire.encode(message)
        self._flush()

    def _flush(self) -> None:
        try:
            while self.outgoing:
                del self.outgoing[: self.sock.send(self.outgoing)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.open = False
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        self.selector.modify(self.sock, wanted, self._traffic)

    def _answer(self, request: wire.Message, began: float, **fields: Any) -> None:
        self._send({"id": request["id"], "ms": round((time.monotonic() - began) * 1000, 3), **fields})

    # ---------------------------------------------------------------- slots

    def _make_slot(self, request: wire.Message) -> None:
        began = time.monotonic()
        wish = namespace.SlotWish(**request["slot"])

        def done(error: OSError | None) -> None:
            maker = self.making.pop(wish.index)
            self.selector.unregister(maker.channel)
            slot = maker.finish()
            if slot is not None and maker.unwanted:
                slot.close()
                slot = None
            if error is None and slot is not None:
                self.slots[wish.index] = slot
                self._answer(request, began, ok=True, user=slot.user_path, net=slot.net_path)
            else:
                text = str(error) if error else "its process ended early"
                code = error.errno if error else 0
                self._answer(request, began, ok=False, errno=code, error=f"cannot make namespaces: {text}")

        def advance(_: int) -> None:
            try:
                if maker.advance(self.outside):
                    done(None)
            except OSError as error:
                done(error)

        try:
            maker = namespace.SlotMaker.fork(wish)
        except OSError as error:
            self._answer(request, began, ok=False, errno=error.errno, error=f"cannot make namespaces: {error}")
            return
        self.making[wish.index] = maker
        self.selector.register(maker.channel, selectors.EVENT_READ, advance)

    def _drop_slot(self, index: int) -> None:
        slot = self.slots.pop(index, None)
        if slot is not None:
            slot.close()
        elif index in self.making:
            self.making[index].unwanted = True

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
            self._answer(request, began, ok=False, errno=error.errno, error=f"cannot fork: {error}")
            return
        if pid == 0 and request["op"] == "launch":
            become_runtime(request, self.slots[request["index"]], told)
        elif pid == 0:
            become_criu(request, told)
        os.close(told)
        self.launches[pid] = Launch(request, report, began)

    def _abort(self, box: str) -> None:
        for request in [request for request in self.waiting if request["box"] == box]:
            self.waiting.remove(request)
            self._answer(request, time.monotonic(), ok=False, errno=0, error="aborted")
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
        told = _read_report(launch.report)
        if request["op"] == "launch":
            self._drop_slot(request["index"])
        log = _tail(Path(request["log"]))
        if request["op"] == "dump":
            cause = told.get("error") or log
            self._answer(request, launch.began, ok=code == 0, errno=told.get("errno", 0), error=cause, code=code)
            return
        try:
            pid = int(Path(request["pid_file"]).read_text()) if code == 0 else 0
        except (OSError, ValueError):
            pid = 0
        if pid:
            self.boxes.add(pid)
            self._answer(request, launch.began, ok=True, pid=pid, setup_ms=told.get("ms", 0.0))
            return
        self._end_runtime(request["box"])
        cause = told.get("error") or log or f"the runtime ended with {code} and said nothing"
        self._answer(request, launch.began, ok=False, errno=told.get("errno", 0), error=cause)

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
        for maker in self.making.values():
            maker.kill()
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


def become_runtime(request: wire.Message, slot: namespace.Slot, told: int) -> None:
    """Make the box's mounts and socket, then exec the OCI runtime. Never returns."""
    what = "start"
    began = time.monotonic()
    try:
        for path, text in request["write"].items():
            what = f"write {Path(path).name}"
            _write(path, text)
        if request["nested"] is not None:
            what = "give a nested box its own"
            delegation.give(owner=slot.id_base, **request["nested"])
        what = "unshare"
        syscalls.unshare(syscalls.CLONE_NEWNS)
        for fields in request["steps"]:
            step = steps.unpack(fields)
            what = step.describe()
            step.execute(slot.userns_for)
        what = "listen"
        _forget_streams()
        _limit()
        _listen(request["socket"], slot.net)
        _exec(request, told, began)
    except BaseException as error:  # noqa: BLE001 - a forked child must report and end, whatever happened
        code = error.errno if isinstance(error, OSError) else 0
        os.write(told, json.dumps({"error": f"{what}: {error}"[:LOG_LIMIT], "errno": code}).encode())
    finally:
        os._exit(70)


def become_criu(request: wire.Message, told: int) -> None:
    """Dump a box, or make one again from its dump: exec CRIU. Never returns."""
    began = time.monotonic()
    try:
        if request["op"] == "dump":
            restoring.prepare_dump(request)
        else:
            restoring.prepare_restore(request)
            _listen(request["socket"], None)
        _exec(request, told, began)
    except BaseException as error:  # noqa: BLE001 - a forked child must report and end, whatever happened
        code = error.errno if isinstance(error, OSError) else 0
        os.write(told, json.dumps({"error": f"{request['op']}: {error}"[:LOG_LIMIT], "errno": code}).encode())
    finally:
        os._exit(70)


def _exec(request: wire.Message, told: int, began: float) -> None:
    os.write(told, json.dumps({"ms": round((time.monotonic() - began) * 1000, 3)}).encode())
    argv: list[str] = request["argv"]
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.execvp(argv[0], argv)  # noqa: S606 - an argument vector, without a shell


def _forget_streams() -> None:
    """Standard streams that lead nowhere: a pipe without a writer to read from, one without a reader to write to.

    Not /dev/null: crun gives the streams to the box's root, and would so give away the host's own device node.
    """
    empty, end = os.pipe()
    os.close(end)
    os.dup2(empty, 0, inheritable=True)
    end, full = os.pipe()
    os.close(end)
    for fd in (1, 2):
        os.dup2(full, fd, inheritable=True)


def _limit() -> None:
    """The limits of the box's processes. Not in the bundle: runc sets those from outside, when the box's ids are no
    longer its own, and a host's root without CAP_SYS_RESOURCE may not.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _listen(path: str, net: int | None) -> None:
    """Listen on `path` as descriptor 3. Bound by a relative name: socket addresses end after 108 bytes.

    In the box's network namespace `net`, though its path is the host's: what dumps a box looks for its sockets there.
    """
    os.chdir(Path(path).parent)
    if net is not None:
        syscalls.setns(net, syscalls.CLONE_NEWNET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(Path(path).name)
    os.chmod(Path(path).name, 0o600)
    listener.listen(LISTEN_BACKLOG)
    # A guest that is made again has been told already that it is.
    listener.setblocking(False)
    os.dup2(listener.fileno(), _GUEST_FD, inheritable=True)
    os.chdir("/")


def _read_report(fd: int) -> Mapping[str, Any]:
    """What the child told before it became the runtime; {} when it was killed first."""
    try:
        text = os.read(fd, 2 * LOG_LIMIT)
    except BlockingIOError:
        text = b""
    finally:
        os.close(fd)
    # The child writes once: its time, or its error; an exec that failed comes after the time.
    lines = text.replace(b"}{", b"}\n{").splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def _tail(path: Path) -> str:
    """The end of the runtime's log, which is then removed."""
    try:
        text = path.read_bytes()[-LOG_LIMIT:].decode(errors="replace").strip()
        path.unlink()
    except FileNotFoundError:
        return ""
    return text


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
