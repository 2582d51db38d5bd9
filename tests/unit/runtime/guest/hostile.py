"""A guest that does anything to its connection: real sockets, in threads, so that it never waits for the client."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: For how long one flood goes on when the client does not close.
FLOOD_S: Final = 20.0

#: For how long a guest that hangs waits for the client to close.
HANG_S: Final = 20.0


@dataclass(frozen=True)
class Act:
    """One thing that a hostile guest does: see the methods of Hostile for the verbs."""

    verb: str
    data: bytes = b""
    count: int = 0


class Hostile:
    """Serves every connection by playing `script`, then closing; or hanging, when `hangs`."""

    def __init__(self, path: Path) -> None:
        self.script: tuple[Act, ...] = ()
        self.hangs = False
        self.sent = 0  # bytes that the client's socket took, over all connections
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.settle()

    def settle(self) -> None:
        """Return when every connection has ended."""
        for thread in list(self._threads):
            thread.join(30)
            assert not thread.is_alive(), "the client has left a connection open"
            self._threads.remove(thread)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # stopped
                return
            thread = threading.Thread(target=self._serve, args=(sock, self.script, self.hangs))
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket, script: tuple[Act, ...], hangs: bool) -> None:
        with sock, contextlib.suppress(OSError):  # the client was faster
            sock.settimeout(HANG_S)
            for act in script:
                getattr(self, f"_{act.verb}")(sock, act)
            if hangs:
                closed = select.poll()
                closed.register(sock, 0)  # a hang-up is always told
                assert closed.poll(HANG_S * 1000), "the client has left a connection open"

    # -- verbs

    def _request(self, sock: socket.socket, _: Act) -> None:
        """Take what the client says first."""
        sock.recv(1 << 20)

    def _send(self, sock: socket.socket, act: Act) -> None:
        sock.sendall(act.data)
        self.sent += len(act.data)

    def _drip(self, sock: socket.socket, act: Act) -> None:
        """One byte at a time, the client awake after each."""
        for index in range(len(act.data)):
            sock.sendall(act.data[index : index + 1])
            time.sleep(0.000_05)

    def _descriptors(self, sock: socket.socket, act: Act) -> None:
        """Bytes with `count` descriptors."""
        with open("/dev/null", "rb") as null:
            sent = socket.send_fds(sock, [act.data or b"\0"], [null.fileno()] * act.count)
        sock.sendall((act.data or b"\0")[sent:])

    def _urgent(self, sock: socket.socket, act: Act) -> None:
        """A byte out of band, which a kernel may refuse."""
        with contextlib.suppress(OSError):
            sock.send(act.data[:1] or b"!", socket.MSG_OOB)

    def _pause(self, _: socket.socket, act: Act) -> None:
        time.sleep(act.count / 1000)

    def _flood(self, sock: socket.socket, act: Act) -> None:
        """The same bytes until the client closes."""
        block = act.data * max(1, 65_536 // len(act.data))
        ends = time.monotonic() + FLOOD_S
        while time.monotonic() < ends:
            sock.sendall(block)
            self.sent += len(block)

    def _shut(self, sock: socket.socket, _: Act) -> None:
        """Send end of file; reading goes on."""
        sock.shutdown(socket.SHUT_WR)

    def _deaf(self, sock: socket.socket, _: Act) -> None:
        """Read no more; writing goes on."""
        sock.shutdown(socket.SHUT_RD)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[Hostile]:
    """A hostile guest that listens on `path`, until the end of the body."""
    guest = Hostile(path)
    try:
        yield guest
    finally:
        guest.stop()


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
