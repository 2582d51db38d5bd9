"""What a devbox and an execution are, apart from how they are stored or shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from corral.core import ids
from corral.runtime.contract import Layer, Limits, TerminalSize, User

T = TypeVar("T")


class Desired(enum.StrEnum):
    """What the caller wants of a devbox."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    SHUTDOWN = "shutdown"


class Observed(enum.StrEnum):
    """What is so. The dialect's names; resuming is provisioning again, as clients take `resuming` for an end."""

    PROVISIONING = "provisioning"  #: the runtime makes the box
    INITIALIZING = "initializing"  #: the box answers; mounts and launch commands run
    RUNNING = "running"  #: ready
    SUSPENDING = "suspending"  #: its last commands run, then its disk is kept and its box removed
    SUSPENDED = "suspended"  #: there is no box; `kept` has what the next one begins as
    FAILURE = "failure"  #: ended without being asked to; `reason` says why
    SHUTDOWN = "shutdown"  #: ended because it was asked to, or its time was up; `reason` says which


ENDED = frozenset({Observed.FAILURE, Observed.SHUTDOWN})


class Reason(enum.StrEnum):
    """Why a devbox is not running. Closed: each member is documented in docs/reference/errors.md."""

    NONE = ""  #: running
    STARTING = "starting"  #: on its way to running
    API_SUSPEND = "api_suspend"
    API_SHUTDOWN = "api_shutdown"
    KEEP_ALIVE_TIMEOUT = "keep_alive_timeout"
    IDLE = "idle"
    ENTRYPOINT_EXIT = "entrypoint_exit"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    LAUNCH_FAILED = "launch_failed"  #: a launch command or mount failed
    START_FAILED = "start_failed"  #: the runtime could not make the box
    GUEST_UNRESPONSIVE = "guest_unresponsive"
    KILLED = "killed"  #: process 1 was killed from outside
    EXITED = "exited"  #: process 1 ended by itself
    HOST_RESTARTED = "host_restarted"
    LOST = "lost"  #: the box is not on the host any more and nobody knows why


class KeepMemory(enum.StrEnum):
    """Whether a suspended devbox keeps its memory, and with it its processes, beside its disk."""

    AUTO = "auto"  #: where it can be; otherwise the disk alone, and the devbox says why
    ALWAYS = "always"  #: a suspend or resume that cannot, fails
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Transition:
    """A devbox entered `status` at `at_ms` (Unix milliseconds)."""

    status: Observed
    at_ms: int
    reason: Reason = Reason.NONE


@dataclass(frozen=True, slots=True)
class ObjectMount:
    """An object whose content is put into the box at its first start: as the file `path`, or unpacked into it."""

    object_id: str
    path: str


@dataclass(frozen=True, slots=True)
class DevboxRequest:
    """A validated wish for a devbox. `launch_parameters` is what the caller sent, echoed in views."""

    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    user: User = field(default_factory=User)
    image: str | None = None  #: None is the default image
    blueprint_id: str | None = None  #: whose image lies below its disk, also when it begins as a snapshot
    snapshot_id: str | None = None  #: whose disk it begins as, and whose image it has then
    services: tuple[str, ...] = ()  #: commands that start them, run as root before the launch commands
    launch_commands: tuple[str, ...] = ()
    entrypoint: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)  #: path -> text, written before the launch commands
    object_mounts: tuple[ObjectMount, ...] = ()
    keep_alive_s: int = 3600
    idle_s: int | None = None  #: end after this many seconds without activity; replaces keep_alive_s
    idle_suspends: bool = False  #: suspend it then, instead of shutting it down
    suspend_commands: tuple[str, ...] = ()
    suspend_limit_s: float = 30.0  #: for all of them together
    docker_in_docker: bool = False  #: containers in it are possible, and Docker is started
    nested: bool = False  #: its root may make containers, see the runtime's contract
    lent: tuple[str, ...] = ()  #: images whose layers its processes can read, as far as they are there
    keep_memory: KeepMemory = KeepMemory.AUTO
    launch_parameters: Mapping[str, object] = field(default_factory=dict)
    snapshot_every: int | None = None  #: seconds between two copies of its disk to the object store


@dataclass(frozen=True, slots=True)
class Origin:
    """A blueprint as devboxes need it: image, launch parameters, and the commands of its services by their names."""

    id: str
    image: str
    launch_parameters: Mapping[str, Any] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parent:
    """What a snapshot is of: a devbox, and the blueprint whose image lies below its disk."""

    devbox_id: str
    blueprint_id: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The disk of a box that is no more: the layers below it, and its size in bytes."""

    layers: tuple[Layer, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What became of a devbox's memory when it was last suspended or resumed, or of its parent's when it was forked.

    `message` says why it was not kept, or not brought back; `size` in bytes. `launch` is the number of the launch that
    the processes are of; None when none went on.
    """

    kept: bool
    message: str = ""
    size: int = 0
    launch: int | None = None


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a fork gets of its parent's memory, if `wanted` says so. `executions` are those of the parent that ran.

    `kept` is known once the parent was copied; `message`, `size` and `launch` are as of `Memory`.
    """

    wanted: KeepMemory
    launch: int
    kept: bool = False
    message: str = ""
    size: int = 0
    executions: tuple[str, ...] = ()

    def executions_of(self, devbox_id: str) -> dict[str, str]:
        """New ids, by the parent's, of the executions that go on in a fork: the same ones whenever it is asked."""
        return {execution_id: ids.derived("exe", devbox_id, execution_id) for execution_id in self.executions}


@dataclass(frozen=True, slots=True)
class Devbox:
    """A devbox as its row says. Times in Unix milliseconds; `message` explains `reason` to a person."""

    id: str
    account_id: str
    request: DevboxRequest
    desired: Desired
    observed: Observed
    reason: Reason
    message: str
    observed_at_ms: int
    created_at_ms: int
    ended_at_ms: int | None
    transitions: tuple[Transition, ...]
    parent_id: str | None = None  #: the devbox whose disk it began as a copy of
    kept: Kept | None = None  #: what is kept of its box while there is none
    memory: Memory | None = None  #: None before the first suspend, unless it is a fork that was to have its parent's

    @property
    def start(self) -> int:
        """How often it was resumed."""
        return sum(one.status is Observed.PROVISIONING for one in self.transitions) - 1

    @property
    def launch(self) -> int:
        """The number of the launch whose commands and entrypoint are the devbox's."""
        return self.start if self.memory is None or self.memory.launch is None else self.memory.launch


def copy_of(devbox_id: str) -> str:
    """What the copy of a suspended devbox's disk is called among the host's snapshots."""
    return f"{devbox_id}-suspended"


@dataclass(frozen=True, slots=True)
class Relative:
    """A devbox in a tree of those that began as copies of one another."""

    id: str
    parent_id: str | None
    name: str | None
    status: Observed
    created_at_ms: int


class ExecutionStatus(enum.StrEnum):
    """The dialect's names."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"


class ExecutionSource(enum.StrEnum):
    """Who asked for an execution; the dialect's names of log sources."""

    EXEC = "exec"  #: a caller
    SETUP = "setup_commands"  #: the devbox's launch commands
    ENTRYPOINT = "entrypoint"  #: the devbox's main process


@dataclass(frozen=True, slots=True)
class Execution:
    """A command in a devbox: a durable record. Output is in the spool, by byte offset.

    `message` says why it could not be started or was lost. `command_id` is the caller's idempotency key.
    """

    id: str
    devbox_id: str
    command: str
    status: ExecutionStatus
    shell_name: str | None
    attach_stdin: bool
    exit_code: int | None
    stdout_cut: bool
    stderr_cut: bool
    lost: bool
    created_at_ms: int
    ended_at_ms: int | None
    source: ExecutionSource = ExecutionSource.EXEC
    command_id: str | None = None
    user: str | None = None
    terminal: TerminalSize | None = None
    message: str = ""
    parent_id: str | None = None  #: the execution that it is the copy of, in the devbox that its own is a fork of


class LogSource(enum.StrEnum):
    """The dialect's names."""

    SETUP = "setup_commands"
    ENTRYPOINT = "entrypoint"
    EXEC = "exec"
    FILES = "files"
    STATS = "stats"
    KERNEL = "kmsg"


class LogLevel(enum.StrEnum):
    """How much a log line matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a devbox's log. Fields about a command are None on lines that belong to none."""

    level: LogLevel
    source: LogSource
    timestamp_ms: int
    message: str | None = None
    cmd: str | None = None
    cmd_id: str | None = None
    exit_code: int | None = None
    shell_name: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a devbox has had so far, from its transitions. Seconds are whole; `gb` means GiB."""

    id: str
    status: Observed
    start_time_ms: int
    end_time_ms: int | None
    total_elapsed_seconds: int
    total_active_seconds: int
    vcpu_seconds: int
    memory_gb_seconds: int
    disk_gb_seconds: int


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first."""

    items: tuple[T, ...]
    has_more: bool
    total: int | None
