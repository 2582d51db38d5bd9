"""A new socket for the guest of a running box, in the box's network namespace and at a path of the host."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from corral.runtime.linux import syscalls

BACKLOG: Final = 128


def listen_in(process: int, path: Path) -> socket.socket:
    """A socket that listens on `path`, which must be free, in the network of the process with the pidfd `process`.

    The calling thread is in that network for a moment; other threads are not. The path may be longer than addresses
    of sockets are. Raises OSError.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.setns(process, syscalls.CLONE_NEWNET)
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
            path.chmod(0o600)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    finally:
        os.close(folder)
        os.close(own)
    return listener
