"""Process 1 of a box that is not ours: it takes the descriptors of an execution and does with them what it can.

Started as a program by the tests, inside the box's namespaces; standard library only. The first argument of a command
says what is done; what had effect that it must not have is written to the command's standard error.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import struct
from collections.abc import Callable

LISTEN_FD = 3
TEBIBYTE = 1 << 40


def openings(fd: int) -> list[str]:
    """Names of what a write-only descriptor of a host's file is not good for, and was."""
    own = f"/proc/self/fd/{fd}"
    ways: dict[str, Callable[[], object]] = {
        "read": lambda: os.pread(fd, 1, 0),
        "map": lambda: mmap.mmap(fd, 1, prot=mmap.PROT_READ),
        "open to read": lambda: os.open(own, os.O_RDONLY),
        "open again": lambda: os.open(own, os.O_WRONLY),
        "link": lambda: os.link(own, "/tmp/link", follow_symlinks=True),
        "rename": lambda: os.rename(own, "/tmp/renamed"),
        "remove": lambda: os.unlink(os.readlink(own)),
        "replace": lambda: os.symlink("/etc/passwd", os.readlink(own)),
        "change the mode": lambda: os.fchmod(fd, 0o777),
        "change the owner": lambda: os.fchown(fd, 0, 0),
        "take a lease": lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK),
        "name an attribute": lambda: os.setxattr(fd, "user.x", b"x"),
        "be a folder": lambda: os.open("..", os.O_RDONLY, dir_fd=fd),
    }
    os.pwrite(fd, b"x", 0)
    found = []
    for name, way in ways.items():
        with contextlib.suppress(OSError):
            way()
            found.append(name)
    return found


def grow(out: int, status: int) -> None:
    """Sparse files of 1 TiB, one byte at the end."""
    for fd in (out, status):
        os.ftruncate(fd, TEBIBYTE)
        os.pwrite(fd, b"x", TEBIBYTE - 1)


def shrink(out: int, status: int) -> None:
    """Files that had content and have none."""
    for fd in (out, status):
        os.pwrite(fd, b'{"exit_code":0,"signal":null}\n', 0)
        os.ftruncate(fd, 0)


def lie(out: int, status: int) -> None:
    """A status of another kind, and one after it."""
    os.pwrite(out, b"\xff" * 100, 0)
    os.pwrite(status, b'{"exit_code":-7,"signal":null,"later":' + b"[" * 50 + b"]" * 50 + b"}\n{}\n", 0)


def serve(sock: socket.socket) -> None:
    """Answer one request."""
    data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 3)
    body = json.loads(data[5:])
    reply: dict[str, object] = {"protocol": 1, "version": "x", "ready": True, "claimed": True, "uptime_ms": 1}
    if body["op"] == "exec":
        out, err, status = fds
        found = [name for fd in (out, status) for name in openings(fd)]
        {"grow": grow, "shrink": shrink, "lie": lie}[body["argv"][0]](out, status)
        os.pwrite(err, f"{found}".encode(), 0)
        reply = {"pid": 1, "known": False}
        for fd in fds:
            os.close(fd)
    payload = json.dumps(reply).encode()
    sock.sendall(struct.pack("<BI", 2, len(payload)) + payload)


def main() -> None:
    listener = socket.socket(fileno=LISTEN_FD)
    while True:
        with listener.accept()[0] as sock:
            serve(sock)


main()
