"""What a build is, apart from how it is stored, carried out or shown."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from corral.runtime.contract import Limits

#: Where an image has the images that it carries, each as an archive of Docker.
CARRIED: Final = "/var/lib/corral/images"


def archive_name(image: str) -> str:
    """The file in CARRIED that an image of this name is carried in."""
    return f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.tar"


class BuildStatus(enum.StrEnum):
    """The dialect's names of a blueprint's states."""

    QUEUED = "queued"  #: waits for its turn
    PROVISIONING = "provisioning"  #: its devbox starts, bases and context go into it
    BUILDING = "building"  #: the steps of the Dockerfile run, or the image comes out
    COMPLETE = "build_complete"  #: `image` can be used
    FAILED = "failed"  #: `failure` says why


ENDED = frozenset({BuildStatus.COMPLETE, BuildStatus.FAILED})


class FailureReason(enum.StrEnum):
    """The dialect's names. Closed: each member is documented in docs/reference/errors.md."""

    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    BUILD_FAILED = "build_failed"


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Files for COPY and ADD: an object with a tar archive, compressed or not, `digest` that of its bytes."""

    object_id: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What is to be built. Two plans of one account that say the same are one build.

    `wanted_by` is the id of what needs the image, a blueprint for example: the build goes on, and its image is kept,
    while anything wants it. `files` are texts that the Dockerfile can copy by `COPY --from=corral-files <name> …`.
    `carried` are names of images that come with it, in CARRIED, for Docker in its devboxes; one that cannot be had is
    a warning in the log.
    `limits` and `timeout_s` None are those of the settings, and do not decide what comes out.
    """

    account_id: str
    wanted_by: str
    dockerfile: str
    context: BuildContext | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    carried: tuple[str, ...] = ()
    target: str | None = None  #: a stage, when it is not the last
    limits: Limits | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """Why there is no image. Without a step (0) none had begun, or all had ended.

    `command` is the step as the Dockerfile has it, `exit_code` that of its command, `output` the end of what it wrote.
    """

    reason: FailureReason
    message: str
    step: int = 0
    command: str = ""
    exit_code: int | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of its containers, as its Dockerfile has it: `user` a name or number, maybe with a group."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    """A build as its row says. Times in Unix milliseconds.

    `image` is the name by which `Images.resolve` knows what was built; with `config` once it is complete.
    """

    id: str
    account_id: str
    status: BuildStatus
    created_at_ms: int
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    image: str | None = None
    config: ImageConfig | None = None
    failure: BuildFailure | None = None


class BuildLogLevel(enum.StrEnum):
    """How much a line matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class BuildLine:
    """One line of a build's log. `number` counts them from 1: give it back as `after` to get what follows."""

    number: int
    level: BuildLogLevel
    timestamp_ms: int
    message: str
