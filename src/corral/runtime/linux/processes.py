"""What the kernel tells of a process: how it ended, and whether it gets its turns. Standard library only."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PIDFD_GET_INFO: Final = 0xC040FF0B
PIDFD_INFO_EXIT: Final = 1 << 3
_SIZE: Final = 64
_EXIT_CODE_AT: Final = 60
#: Of /proc/<pid>/stat, counted from behind the name, which may hold anything.
_STATE_FIELD: Final = 0
_CPU_FIELDS: Final = slice(11, 13)
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that was reaped; None while it was not, and before Linux 6.15."""
    info = bytearray(_SIZE)
    struct.pack_into("=Q", info, 0, PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in {errno.ESRCH, errno.ENOTTY, errno.EINVAL, errno.EREMOTE}:
            return None
        raise
    if not struct.unpack_from("=Q", info)[0] & PIDFD_INFO_EXIT:
        return None
    return int(struct.unpack_from("=i", info, _EXIT_CODE_AT)[0])


@dataclass(frozen=True, slots=True)
class Turns:
    """A process as the scheduler sees it: whether it wants the processor now, and how long it had it so far."""

    wants: bool
    had_s: float


def turns(pid: int) -> Turns:
    """Look at a process's main thread. Raises ProcessLookupError when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    fields = text.rpartition(")")[2].split()
    return Turns(fields[_STATE_FIELD] == "R", sum(int(field) for field in fields[_CPU_FIELDS]) / _TICKS_PER_S)
