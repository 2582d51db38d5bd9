"""How a process ended, asked through its pidfd. Standard library only."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import Final

PIDFD_GET_INFO: Final = 0xC040FF0B
PIDFD_INFO_EXIT: Final = 1 << 3
_SIZE: Final = 64
_EXIT_CODE_AT: Final = 60


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
