"""What the launcher's child does for a nested box before it becomes the OCI runtime, as root of the host.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import os


def give(group: str | None, owner: int, oom_score: int) -> None:
    """Join `group` and set this process's OOM score. `owner` is any user without rights. Raises OSError.

    The group is joined before the box gets its cgroup namespace, whose root it becomes. The score is written without
    rights because a writer with CAP_SYS_RESOURCE makes it the least that the box's processes can ever have, and
    container runtimes begin by setting it to 0.
    """
    if group is not None:
        _write(_open(f"{group}/cgroup.procs"), os.getpid())
    score = _open("/proc/self/oom_score_adj")
    os.seteuid(owner)
    try:
        _write(score, oom_score)
    finally:
        os.seteuid(0)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _write(fd: int, number: int) -> None:
    try:
        os.write(fd, str(number).encode())
    finally:
        os.close(fd)
