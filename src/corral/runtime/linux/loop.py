"""Loop devices by ioctl: attach a file and find what a file is attached to.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

LOOP_CTL_GET_FREE: Final = 0x4C82
LOOP_CONFIGURE: Final = 0x4C0A
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_DIRECT_IO: Final = 16

#: struct loop_config: fd, block_size, struct loop_info64 (flags at byte 52 of it), 64 reserved bytes.
_CONFIG_SIZE: Final = 304
_FLAGS_AT: Final = 8 + 52
_ATTEMPTS: Final = 16


def attach(backing: int, *, direct: bool = False) -> tuple[str, int]:
    """Attach the file `backing` to a free loop device; return its path and a descriptor that holds it.

    The device frees itself when the last mount of it, and this descriptor, are gone. The name of its file is for the
    host's root alone: every /sys has it, also one that a container mounts.
    """
    config = bytearray(_CONFIG_SIZE)
    struct.pack_into("=II", config, 0, backing, 0)
    struct.pack_into("=I", config, _FLAGS_AT, LO_FLAGS_AUTOCLEAR | (LO_FLAGS_DIRECT_IO if direct else 0))
    for _ in range(_ATTEMPTS):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        finally:
            os.close(control)
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(device)
            # Another process took the same free number first.
            if error.errno != errno.EBUSY:
                raise
        else:
            Path(f"/sys/block/{Path(path).name}/loop").chmod(0o700)
            return path, device
    raise OSError(errno.EBUSY, f"no loop device became free in {_ATTEMPTS} attempts")


def attached(file: Path) -> str | None:
    """The loop device that `file` is attached to, such as /dev/loop3."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(FileNotFoundError):
            if backing.read_text().rstrip("\n") == str(file):
                return f"/dev/{backing.parts[-3]}"
    return None
