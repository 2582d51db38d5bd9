"""`box.json`: what has to be known to adopt, judge or remove a box after the server that made it is gone.

Written before anything of the box is made, and again when it lives. Not the box's state: that is asked of the kernel.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from corral.runtime.contract import BoxSpec, Layer, Limits, User

NAME: Final = "box.json"
#: Field 22 of /proc/<pid>/stat, counted from behind the name, which may hold anything.
_START_FIELD: Final = 19


@dataclass(frozen=True, slots=True)
class Record:
    """A box on disk. `pid` and `start` (clock ticks after boot) are 0 until it lives.

    `handle` names what it has on the host: its cgroup, disk and bundle. It is the id, or, for a box that was prepared
    before it had one, what it was called then: version 2 cannot rename a cgroup.

    `restored` says that it was made with the processes of an earlier box of this id.
    `oom_kills` are those that were seen while it lived: one more at its end was that of process 1.
    """

    id: str
    handle: str
    boot: str
    slot: int
    limits: Limits
    user: User
    layers: tuple[Layer, ...] = ()
    pid: int = 0
    start: int = 0
    oom_kills: int = 0
    restored: bool = False
    lent: tuple[Layer, ...] = ()

    @classmethod
    def of(cls, spec: BoxSpec, slot: int) -> Record:
        """The record of a box that is about to be made."""
        return cls(
            id=spec.id,
            handle=spec.id,
            boot=boot_id(),
            slot=slot,
            limits=spec.limits,
            user=spec.user,
            layers=spec.layers,
            lent=spec.lent,
        )

    def claimed(self, spec: BoxSpec) -> Record:
        """The record of a prepared box once it is the box of `spec`."""
        return replace(self, id=spec.id, limits=spec.limits, user=spec.user)

    def living(self, pid: int) -> Record:
        """The record once process 1 is there. Raises ProcessLookupError."""
        return replace(self, pid=pid, start=start_time(pid))

    def open_process(self) -> int | None:
        """A pidfd of process 1, or None when it has ended (its number may be another process's now)."""
        if not self.pid or self.boot != boot_id():
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            if start_time(self.pid) == self.start:
                return fd
        except ProcessLookupError:
            pass
        os.close(fd)
        return None


@dataclass(slots=True)
class Living:
    """A box whose process 1 runs. `process` is its pidfd."""

    record: Record
    process: int


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int:
    """When a process started, in clock ticks after boot. Raises ProcessLookupError; a zombie counts as ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    fields = text.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        raise ProcessLookupError(pid)
    return int(fields[_START_FIELD])


def write(folder: Path, record: Record) -> None:
    """Write the record so that a reader sees the old one or the new one."""
    partial = folder / f"{NAME}.new"
    shelves = {name: [layer.pack() for layer in getattr(record, name)] for name in ("layers", "lent")}
    fields = {**asdict(record), **shelves}
    partial.write_text(json.dumps(fields))
    partial.rename(folder / NAME)


def read(folder: Path) -> Record | None:
    """The record, or None when there is none that can be read: the box is half-made, or the host lost power."""
    try:
        fields = json.loads((folder / NAME).read_text())
        limits, user = Limits(**fields.pop("limits")), User(**fields.pop("user"))
        layers, lent = (tuple(map(Layer.unpack, fields.pop(name, ()))) for name in ("layers", "lent"))
        # Records of version 0.1.0 have no handle: every box went by its id.
        return Record(limits=limits, user=user, layers=layers, lent=lent, **{"handle": fields["id"], **fields})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
