"""The kernel's random numbers. Standard library only."""

from __future__ import annotations

import fcntl
import os
from typing import Final

_RNDRESEEDCRNG: Final = 0x5207


def renew() -> None:
    """Have every process of the host ask the kernel before it takes the next random number. Raises OSError.

    C libraries keep a generator of the kernel's in the process, which goes on by itself while the kernel's is of the
    same age: a copy of a process would draw the same numbers as the process.
    """
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)
