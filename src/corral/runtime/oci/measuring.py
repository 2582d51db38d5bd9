"""What a box uses of the host, and why it ended: asked of its control group and its disk. Calls block."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Sequence

from corral.runtime.contract import BoxGone, DeathReason, Usage
from corral.runtime.oci.record import Record, boot_id
from corral.runtime.oci.shared import Shared


def usage(shared: Shared, found: Record) -> Usage:
    """What a box uses now. Raises BoxGone."""
    try:
        counted = shared.group(found.handle).counters()
        disk = shared.pool.used(found.handle)
    except OSError as error:
        # ENODEV: the group was removed after its file was opened.
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise
        message = f"cannot measure box {found.id}: it is gone"
        raise BoxGone(message) from error
    return Usage(
        cpu_us=counted.cpu_us,
        memory=counted.memory,
        cache=counted.cache,
        memory_peak=counted.memory_peak,
        disk=disk,
        pids=counted.pids,
        oom_kills=counted.oom_kills,
        limits=found.limits,
    )


def usages(shared: Shared, found: Sequence[Record]) -> dict[str, Usage]:
    """`usage` of each, less those that are gone."""
    used = {}
    for one in found:
        with contextlib.suppress(BoxGone):
            used[one.id] = usage(shared, one)
    return used


def reason(shared: Shared, found: Record, status: int | None) -> DeathReason:
    """Why process 1 ended. `status` is its wait status, None when the kernel does not tell it any more."""
    if found.boot != boot_id():
        return DeathReason.HOST_RESTARTED
    killed = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    if not killed:
        return DeathReason.EXITED
    with contextlib.suppress(FileNotFoundError):
        if shared.group(found.handle).oom_kills() > found.oom_kills:
            return DeathReason.OUT_OF_MEMORY
    return DeathReason.KILLED
