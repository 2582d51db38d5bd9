"""Taking away what a box has on the host, in whatever state it is, half-made ones and those of a killed server too.

Must not know whether a box is wanted. Calls block: use a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import stat
from pathlib import Path
from typing import Final

from corral.runtime.cgroup.group import Group
from corral.runtime.cgroup.layout import Layout
from corral.runtime.contract import HostUnfit
from corral.runtime.oci import probe
from corral.runtime.oci.record import Record
from corral.runtime.oci.settings import OciSettings, Places
from corral.runtime.rootfs.pool import DiskPool

KILL_LIMIT_S: Final = 10.0
KILL_LOOK_S: Final = 0.1
#: Runtimes whose records on disk are all they keep: removing the folder is their `delete`, without a process.
PLAIN_RUNTIMES: Final = frozenset({"crun", "runc"})
DELETE_LIMIT_S: Final = 30.0


class Removal:
    """For one data folder."""

    def __init__(self, settings: OciSettings, places: Places, layout: Layout, pool: DiskPool) -> None:
        self._settings = settings
        self._places = places
        self._layout = layout
        self._pool = pool

    def remove(self, folder: Path, process: int | None, found: Record | None) -> None:
        """End the box and remove all that it has; idempotent.

        `folder` is where its record is, `found` that record, `process` a pidfd of process 1, which is closed.
        Raises HostUnfit.
        """
        # Without a record it is the folder that has the handle: only a whole box's has another.
        handle = found.handle if found is not None else folder.name
        group = self._places.group(self._layout, handle)
        try:
            if process is None and found is not None:
                process = found.open_process()
            mark = self._places.frozen / handle
            if mark.exists():
                # What stands still cannot end: it is killed first, so that it does nothing more once it may.
                group.kill()
                if group.can_freeze:
                    group.thaw()
                mark.unlink()
            if process is not None:
                end(process, group)
            if group.exists():
                group.remove()
            self._forget(handle)
            self._pool.delete(handle)
            remove_tree(self._places.bundle(handle))
            remove_tree(folder)
        except OSError as error:
            message = f"cannot destroy box {folder.name}: {error}"
            raise HostUnfit(message, remedy="try again; if it stays, look for processes in its cgroup") from error
        finally:
            if process is not None:
                os.close(process)

    def _forget(self, handle: str) -> None:
        """Make the OCI runtime forget a container that has ended."""
        state = self._places.state
        if Path(self._settings.oci_runtime).name in PLAIN_RUNTIMES:
            remove_tree(state / handle)
            return
        command = [self._settings.oci_runtime, "--root", str(state), "delete", "--force", handle]
        probe.run(command, DELETE_LIMIT_S)


def end(process: int, group: Group) -> None:
    """Kill process 1, and with it all of its PID namespace, and wait until it is gone. Raises OSError (ETIMEDOUT).

    Process 1 needs turns on the processor to end. Where the box's own processes leave it none, they are killed first.
    """
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    waiter = select.poll()
    waiter.register(process, select.POLLIN)
    for _ in range(round(KILL_LIMIT_S / KILL_LOOK_S)):
        if waiter.poll(KILL_LOOK_S * 1000):
            return
        group.kill()
    raise OSError(errno.ETIMEDOUT, f"process 1 did not end within {KILL_LIMIT_S:.0f} s of SIGKILL")


def remove_tree(path: Path) -> None:
    """Remove a folder of ours; one that is not there is fine."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
