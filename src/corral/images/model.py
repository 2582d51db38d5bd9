"""What a snapshot is, apart from how it is stored or shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.devboxes.model import Inheritance
from corral.runtime.contract import Layer


class SnapshotStatus(enum.StrEnum):
    """The dialect's names."""

    IN_PROGRESS = "in_progress"  #: its devbox is about to be copied
    COMPLETE = "complete"  #: devboxes can begin as it
    ERROR = "error"  #: there is no copy; `message` says why
    DELETED = "deleted"  #: its copy is removed, or about to be


@dataclass(frozen=True, slots=True)
class SnapshotWish:
    """What a caller says of a snapshot; all of it can be changed later."""

    name: str | None = None
    commit_message: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a devbox's disk, as its row says. Sizes in bytes, times in Unix milliseconds.

    `layers` are those below the disk: what a box needs to begin as it. `env` is the image's.
    """

    id: str
    account_id: str
    devbox_id: str
    wish: SnapshotWish
    status: SnapshotStatus
    message: str
    size: int
    still_ms: float
    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    created_at_ms: int
    passing: bool = False  #: made for a fork, and shown to nobody
    blueprint_id: str | None = None  #: whose image lies below the disk
    remote: str | None = None  #: the remote copy that it is received from
    request: Mapping[str, Any] | None = None  #: of the devbox whose disk that one is
    memory: Inheritance | None = None  #: what is kept of the devbox's memory, where a fork asks for it


class RemoteState(enum.StrEnum):
    """Where a remote copy is."""

    IN_PROGRESS = "in_progress"  #: its stream is on its way, or about to be
    COMPLETE = "complete"  #: it is in the object store, whole
    ERROR = "error"  #: it is not, and will not be; `message` says why
    DELETED = "deleted"  #: it is removed, or is once no other one needs it


@dataclass(frozen=True, slots=True)
class RemoteCopy:
    """A snapshot in the object store, as its row says. `stored` in bytes, as it lies there.

    With a `parent_id` it is what is different from that copy, the `level`th in a row of them.
    """

    id: str
    account_id: str
    devbox_id: str
    snapshot_id: str
    parent_id: str | None
    state: RemoteState
    message: str
    automatic: bool
    level: int
    stored: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """One page of a list, newest first."""

    items: tuple[Snapshot, ...]
    has_more: bool
    total: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """What a devbox's box begins as: layers, variables of the image, and a snapshot's disk or an empty one.

    `lent` are layers of other images, for its processes to read.
    """

    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    origin: str | None = None
    lent: tuple[Layer, ...] = ()
    memory: Inheritance | None = None
