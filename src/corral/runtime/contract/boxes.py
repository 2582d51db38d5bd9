"""What a box is made of, and what it is: specifications, states, use, copies."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
GIB = 1024 * MIB

#: Folders of a nested box where container engines keep images and containers.
STORES = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers")

#: Folder of a box where it finds layers that are lent to it, each by the part of its digest behind the colon.
LENT = "/var/lib/corral/layers"


@dataclass(frozen=True, slots=True)
class Layer:
    """A read-only directory tree. `id_base` is the host uid that owns its root-owned files (0 if imported)."""

    digest: str
    path: Path
    id_base: int = 0

    def pack(self) -> list[str | int]:
        """As JSON types."""
        return [self.digest, str(self.path), self.id_base]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Layer:
        """The layer that `pack` made this from."""
        digest, path, id_base = packed
        return cls(digest, Path(path), id_base)


@dataclass(frozen=True, slots=True)
class User:
    """The Linux user that commands and file calls run as unless they name another."""

    name: str = "user"
    uid: int = 1000
    gid: int = 1000
    home: str = "/home/user"


@dataclass(frozen=True, slots=True)
class Limits:
    """Enforced by the kernel. `cpu` in cores; `memory` and `disk` in bytes; `pids` in tasks."""

    cpu: float = 1.0
    memory: int = 2 * GIB
    disk: int = 4 * GIB
    pids: int = 4096


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """Everything that a runtime needs to make a box. `layers` from the lowest to the highest.

    `origin` names the snapshot that its disk begins as: of a box that had the same layers. The root of a `nested` box
    may make namespaces and mounts of its own, for containers inside it, and its `STORES` lie on its disk itself, so
    that such containers can have overlays there. The box's limits hold for all that is in it.

    `lent` are layers that its processes find below `LENT`, owned as they are in boxes, and that nobody in it can
    change. They are no part of its disk and of no snapshot; a box that has some keeps no memory.

    With `memory` it begins with the processes too that are kept with `origin`. Where those are another box's,
    `executions` has the new ids, by the old ones, of the executions that go on in it.
    """

    id: str
    layers: tuple[Layer, ...]
    hostname: str
    limits: Limits = field(default_factory=Limits)
    user: User = field(default_factory=User)
    env: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    nested: bool = False
    memory: bool = False
    lent: tuple[Layer, ...] = ()
    executions: Mapping[str, str] = field(default_factory=dict)


class BoxStatus(enum.StrEnum):
    """What is so on the host."""

    RUNNING = "running"  #: its guest answered when it was created, and its process 1 lives; `ping` asks the guest
    DEAD = "dead"  #: process 1 has ended; what is left on the host waits for `destroy`


class DeathReason(enum.StrEnum):
    """Why a box's process 1 ended without `destroy`."""

    OUT_OF_MEMORY = "out_of_memory"  #: the kernel killed it for the box's memory limit
    KILLED = "killed"  #: something outside the box killed it
    EXITED = "exited"  #: the guest ended by itself
    HOST_RESTARTED = "host_restarted"  #: the host booted since


@dataclass(frozen=True, slots=True)
class Box:
    """A box as it was on the host when it was looked at. `pid` is process 1's id on the host, 0 when dead.

    `restored` says that it was made with the processes of an earlier one.
    """

    id: str
    status: BoxStatus
    pid: int = 0
    reason: DeathReason | None = None
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """A box's use of its limits since it was made. Bytes, tasks and microseconds.

    `cache` is the part of `memory` that the kernel takes back first: pages of files that were not used for a while.
    """

    cpu_us: int
    memory: int
    cache: int
    memory_peak: int
    disk: int
    pids: int
    oom_kills: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Copied:
    """A snapshot that was made: `size` of the box's disk in bytes, and for how long the box stood still.

    `layers` are the box's: those that a box which begins as the snapshot must have. `memory` is the size of what was
    kept of its processes, in bytes, 0 for a copy of the disk alone, and `executions` are those of them that ran.
    """

    size: int
    still_ms: float
    layers: tuple[Layer, ...]
    memory: int = 0
    executions: tuple[str, ...] = ()


class SnapshotForm(enum.StrEnum):
    """What a snapshot is as a stream."""

    BTRFS = "btrfs"  #: of `btrfs send`; of differences too
    IMAGE = "image"  #: the file of a disk
    TREE = "tree"  #: a tar archive

    @property
    def has_differences(self) -> bool:
        """Whether a stream can be of what is different from another snapshot."""
        return self is SnapshotForm.BTRFS
