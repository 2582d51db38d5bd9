"""The host name of another process, set through its pidfd. Standard library only."""

from __future__ import annotations

import os
import socket

from corral.runtime.linux import syscalls


def set_hostname(process: int, name: str) -> None:
    """Set the host name in the UTS namespace of the process that the pidfd `process` refers to. Raises OSError.

    The calling thread is in that namespace for a moment; other threads are not. A pidfd as the namespace is from
    Linux 5.8: the number of a process that has ended could lead to another's.
    """
    own = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(process, syscalls.CLONE_NEWUTS)
        try:
            socket.sethostname(name)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWUTS)
    finally:
        os.close(own)
