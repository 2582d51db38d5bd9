"""What a blueprint is, apart from how it is stored, built or shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.images.builds.model import BuildFailure


class BlueprintStatus(enum.StrEnum):
    """The dialect's names."""

    AWAITING_UPLOAD = "awaiting_upload"  #: its build context is still being uploaded
    QUEUED = "queued"  #: its build waits for its turn
    PROVISIONING = "provisioning"  #: what it is built in starts
    BUILDING = "building"
    BUILD_COMPLETE = "build_complete"  #: devboxes can begin as it
    FAILED = "failed"  #: `failure` says why


class BlueprintState(enum.StrEnum):
    """The dialect's names. A deleted one can be looked at, and not be used."""

    CREATED = "created"
    DELETED = "deleted"


#: Nothing happens any more to the status of these.
ENDED = frozenset({BlueprintStatus.BUILD_COMPLETE, BlueprintStatus.FAILED})


@dataclass(frozen=True, slots=True)
class FileMount:
    """A text file that is in the image. `path` is absolute."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class CodeMount:
    """A public git repository that is in the image, at `home/name`; `install` runs there."""

    owner: str
    name: str
    ref: str | None = None
    install: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a blueprint is made of, checked. Either `dockerfile` or `base` is given, or neither: the default image.

    `base` is as FROM has it. Steps run as `user`, who is made where the image does not have them, in `home`.
    """

    dockerfile: str | None = None
    base: str | None = None
    files: tuple[FileMount, ...] = ()
    code: tuple[CodeMount, ...] = ()
    commands: tuple[str, ...] = ()
    user: str = "user"
    uid: int = 1000
    home: str = "/home/user"


@dataclass(frozen=True, slots=True)
class ContainerService:
    """A container that devboxes can start beside themselves. Port mappings are `<host port>:<container port>`."""

    name: str
    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    options: str = ""
    port_mappings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlueprintWish:
    """What a caller asks for. `parameters` is what was sent, as JSON; `base_id` the blueprint that it is built on."""

    name: str
    parameters: Mapping[str, Any]
    dockerfile: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    base_id: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    context_id: str | None = None


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A blueprint as its row says. Times in Unix milliseconds. `image` is what `Images.resolve` knows, once built."""

    id: str
    account_id: str
    wish: BlueprintWish
    status: BlueprintStatus
    state: BlueprintState
    created_at_ms: int
    finished_at_ms: int | None = None
    build_id: str | None = None
    image: str | None = None
    failure: BuildFailure | None = None


@dataclass(frozen=True, slots=True)
class BlueprintPage:
    """One page of a list, newest first."""

    items: tuple[Blueprint, ...]
    has_more: bool
    total: int | None
