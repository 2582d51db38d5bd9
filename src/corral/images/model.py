"""What a snapshot is, apart from how it is stored or shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """One page of a list, newest first."""

    items: tuple[Snapshot, ...]
    has_more: bool
    total: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """What a devbox's box begins as: layers, variables of the image, and a snapshot's disk or an empty one."""

    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    origin: str | None = None
