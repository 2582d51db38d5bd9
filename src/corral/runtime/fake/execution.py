"""A command of the fake once it is started: its output goes into the spool and to viewers, its end is written down.

Owns its pipes, its terminal and its process exit; the copying is done on the guest thread. Must not know the
contract's calls; `runtime` does.
"""

from __future__ import annotations

import contextlib
import os
import signal as signals
import subprocess
import termios
import threading
from dataclasses import dataclass
from functools import partial

from corral.runtime.contract import ExecResult, ExecSpec, Stream, TerminalSize
from corral.runtime.fake.guest import GuestThread
from corral.runtime.fake.viewers import Viewer, Watch
from corral.runtime.spool import Spool, SpoolFds, status_line

CHUNK = 65536

#: Recent terminal output that a new viewer gets first.
REPLAY = 64 * 1024


@dataclass(slots=True)
class Sink:
    """Copies one stream into its spool file up to the limit; drops the rest."""

    fd: int
    limit: int
    written: int = 0
    cut: bool = False

    def write(self, data: bytes) -> None:
        room = data[: self.limit - self.written]
        self.cut = self.cut or len(room) < len(data)
        while room:
            try:
                count = os.write(self.fd, room)
            except OSError:
                # The host's disk is full: the command goes on, its record says that it was cut.
                self.cut = True
                return
            self.written += count
            room = room[count:]


class Execution:
    """A started command. Its fields are the guest thread's; its methods may be called from any thread."""

    def __init__(
        self,
        *,
        box: str,
        spec: ExecSpec,
        process: subprocess.Popen[bytes],
        fds: SpoolFds,
        spool: Spool,
        outputs: dict[Stream, int],
        stdin: int | None,
    ) -> None:
        self.box, self.spec, self.process = box, spec, process
        self.ended = False
        self.cpu_us = 0
        # The guest thread reaps by pid. To this object the process has ended: it would warn when the thread is closed
        # between a kill and its news.
        process.returncode = 0
        self._reaped = False
        self._spool, self._fds = spool, fds
        self._lock = threading.Lock()
        self._stdin = stdin
        self._sinks = {
            Stream.STDOUT: Sink(fds.stdout, spec.output_limit),
            Stream.STDERR: Sink(fds.stderr, spec.output_limit),
        }
        self._sources = {fd: stream for stream, fd in outputs.items()}
        self._thread: GuestThread | None = None
        self._held = set(self._sources) if spec.hold else set()
        self._awaited = set(outputs) if spec.hold else set()
        self._pidfd = os.pidfd_open(process.pid)
        self._recent = bytearray()
        self._watches: set[Watch] = set()
        self._viewers: set[Viewer] = set()

    # -- the guest thread's side

    def begin(self, thread: GuestThread) -> None:
        """Start to copy. On the guest thread."""
        self._thread = thread
        for fd in self._sources.keys() - self._held:
            thread.watch(fd, partial(self._copy, thread, fd))
        self._let_go(thread)
        thread.watch(self._pidfd, partial(self._finish, thread))

    def _copy(self, thread: GuestThread, fd: int) -> bool:
        """Move what can be read now. False at the end of the stream, and when there is nothing now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # a terminal whose last user has gone answers EIO
        if not data:
            if fd not in self._held:
                thread.forget(fd)
            with self._lock:
                del self._sources[fd]
                self._close_source(fd)
            return False
        with self._lock:
            if not self.ended:
                self._keep(self._sources[fd], data)
        if fd not in self._held and self._is_held(self._sources[fd]):
            self._held.add(fd)
            thread.forget(fd)
        return True

    def _is_held(self, stream: Stream) -> bool:
        with self._lock:
            slow = any(viewer.stream is stream and viewer.holds for viewer in self._viewers)
            return not self.ended and (stream in self._awaited or slow)

    def _let_go(self, thread: GuestThread, *, always: bool = False) -> None:
        """Read on what nobody holds back any more. On the guest thread."""
        for fd, stream in list(self._sources.items()):
            if fd in self._held and (always or not self._is_held(stream)):
                self._held.discard(fd)
                thread.watch(fd, partial(self._copy, thread, fd))

    def _keep(self, stream: Stream, data: bytes) -> None:
        """Into the spool, and to whoever looks on; the lock is held."""
        self._sinks[stream].write(data)
        if self.spec.terminal is not None:
            self._recent = (self._recent + data)[-REPLAY:]
        for viewer in self._viewers:
            if viewer.stream is stream:
                viewer.feed(data)
        for watch in self._watches:
            watch.notify(ended=False)

    def _finish(self, thread: GuestThread) -> None:
        """The process has ended: take what is still in its pipes, then write its status."""
        thread.forget(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self.process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._reaped = True
        self.cpu_us = round((usage.ru_utime + usage.ru_stime) * 1_000_000)
        for fd in list(self._sources):
            # A child that goes on writing cannot hold the end back: a pipe holds 64 KiB when the process ends.
            for _ in range(32):
                if not self._copy(thread, fd):
                    break
        self._end(code)
        self._let_go(thread, always=True)

    def _end(self, code: int) -> None:
        out, err = self._sinks[Stream.STDOUT], self._sinks[Stream.STDERR]
        result = ExecResult(
            exit_code=128 - code if code < 0 else code,
            signal=-code if code < 0 else None,
            stdout_cut=out.cut,
            stderr_cut=err.cut,
        )
        with self._lock:
            if not self.ended:
                os.write(self._fds.status, status_line(result, out.written, err.written))
                self._close()

    def _close(self) -> None:
        """Close for good; the lock is held."""
        self.ended = True
        self._fds.close()
        if self._stdin is not None and self._stdin not in self._sources:
            os.close(self._stdin)
        self._stdin = None
        for viewer in self._viewers:
            viewer.close()
        for watch in self._watches:
            watch.notify(ended=True)

    def _close_source(self, fd: int) -> None:
        """Close a stream that has ended. A terminal is its own input: that ends with it. The lock is held."""
        if self._stdin == fd:
            self._stdin = None
        os.close(fd)

    # -- any thread's side

    def lose(self) -> None:
        """The box ends: no status is written by the guest any more, the host marks the execution lost."""
        with self._lock:
            if self.ended:
                return
            self._spool.mark_lost(self.box, self.spec.id)
            self._close()

    def subscribe(self, watch: Watch) -> None:
        """Tell `watch` of growth and of the end, also when that is past."""
        with self._lock:
            self._watches.add(watch)
            if self.ended:
                watch.notify(ended=True)

    def unsubscribe(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def view(self, stream: Stream, *, patient: bool) -> Viewer | None:
        """A new viewer: of the terminal with its recent output, of a pipe with all of it; None when that is not there.

        A stream that waited for its first viewer is read from here on.
        """
        with self._lock:
            replay: bytes | None = bytes(self._recent)
            if self.spec.terminal is None:
                sink = self._sinks[stream]
                whole = not sink.cut
                replay = self._spool.read(self.box, self.spec.id, stream, 0, sink.written) if whole else None
            if replay is None:
                return None
            viewer = Viewer(stream, replay, patient=patient, on_room=self._look_again)
            self._viewers.add(viewer)
            self._awaited.discard(stream)
            if self.ended:
                viewer.close()
        self._look_again()
        return viewer

    def unview(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers.discard(viewer)
        self._look_again()

    def _look_again(self) -> None:
        if self._thread is not None:
            self._thread.submit(partial(self._let_go, self._thread))

    def feed(self, data: bytes) -> int | None:
        """Write to standard input without waiting: the count taken (0: it is full), None when it takes no input."""
        with self._lock:
            if self.ended or self._stdin is None:
                return None
            try:
                return os.write(self._stdin, data)
            except BlockingIOError:
                return 0
            except OSError:
                return None  # the command has closed its end

    def close_stdin(self) -> None:
        """End of input; on a terminal the end-of-file character, which the command may read as it likes."""
        if self.spec.terminal is not None:
            self.feed(b"\x04")
            return
        with self._lock:
            if self._stdin is not None:
                os.close(self._stdin)
                self._stdin = None

    def resize(self, size: TerminalSize) -> bool:
        """False when there is no terminal (any more)."""
        with self._lock:
            if self.ended or self.spec.terminal is None or self._stdin is None:
                return False
            termios.tcsetwinsize(self._stdin, (size.rows, size.cols))
            return True

    def signal(self, number: int, *, group: bool) -> bool:
        """False when it has ended."""
        with self._lock:
            if self.ended or self._reaped:
                return False
        try:
            (os.killpg if group else os.kill)(self.process.pid, number)
        except ProcessLookupError:
            # It has ended and was not seen to, or it is not the leader of its group yet (see `launch`).
            return self._signal_alone(number)
        return True

    def signal_foreground(self, number: int) -> bool:
        """False when it has ended, or no process group has its terminal."""
        with self._lock:
            if self.ended or self.spec.terminal is None or self._stdin is None:
                return False
            group = os.tcgetpgrp(self._stdin)
        if group <= 1:
            return False
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
        return True

    def _signal_alone(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
            return True
        return False

    def kill(self) -> None:
        """End the command and its process group. Without effect when it has ended."""
        self.signal(signals.SIGKILL, group=True)
