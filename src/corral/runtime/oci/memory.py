"""The folder for what ends with the host's uptime: bundles, sockets, the OCI runtime's records.

It is in memory, as /run is on most hosts; where /run is on a disk, as in many containers, a tmpfs is mounted there. An
ext4 without a journal looks at every inode that was removed in the last minutes before it makes one: in a burst of 100
boxes after some churn, half the server's time went there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from corral.runtime.contract import HostUnfit
from corral.runtime.linux import mounts, syscalls

#: A bound, not a reservation: a box has about 60 KiB here.
_LIMIT: Final = "size=1g,nr_inodes=1m,mode=711"


def open_folder(folder: Path) -> None:
    """Make the folder and have it in memory. Idempotent. Raises HostUnfit."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    holder = mounts.holding(folder)
    if holder is not None and holder.fstype in {"tmpfs", "ramfs"}:
        return
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    try:
        syscalls.mount("corral", str(folder), "tmpfs", flags, _LIMIT)
    except OSError as error:
        message = f"cannot mount a tmpfs at {folder}: {error.strerror}"
        raise HostUnfit(message, remedy="run as root with CAP_SYS_ADMIN, or have /run in memory") from error


def close_folder(folder: Path) -> None:
    """Unmount what `open_folder` mounted; nothing uses it any more. Idempotent."""
    if mounts.mounted_at(folder.resolve()) is not None:
        syscalls.umount2(str(folder), syscalls.MNT_DETACH)  # whoever looks around there keeps it until they leave
