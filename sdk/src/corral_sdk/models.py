"""What the server says about devboxes and executions, as frozen values.

Built from JSON with `from_wire`; fields that this client does not know stay in `raw`. Must not send anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from corral_sdk import errors

Wire = Mapping[str, Any]
Stream = Literal["stdout", "stderr"]

ENDED: Final = frozenset({"failure", "shutdown"})  #: statuses that a devbox never leaves


@dataclass(frozen=True, slots=True)
class Transition:
    """The devbox entered `status` at `at_ms` (Unix milliseconds)."""

    status: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class DevboxInfo:
    """A devbox as the server saw it. Times in Unix milliseconds; `reason` says why it is not running."""

    id: str
    name: str | None
    status: str
    reason: str
    message: str
    created_at_ms: int
    ended_at_ms: int | None
    metadata: Mapping[str, str]
    launch_parameters: Wire
    transitions: tuple[Transition, ...]
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> DevboxInfo:
        """Raises BadAnswer when the answer is not a devbox."""
        try:
            return cls(
                id=wire["id"],
                name=wire.get("name"),
                status=wire["status"],
                reason=wire.get("reason") or wire.get("failure_reason") or wire.get("shutdown_reason") or "",
                message=wire.get("reason_message") or "",
                created_at_ms=wire["create_time_ms"],
                ended_at_ms=wire.get("end_time_ms"),
                metadata=wire.get("metadata") or {},
                launch_parameters=wire.get("launch_parameters") or {},
                transitions=tuple(
                    Transition(step["status"], step.get("transition_time_ms") or 0)
                    for step in wire.get("state_transitions") or ()
                ),
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand devbox: {error!r} in the answer") from error

    @property
    def has_ended(self) -> bool:
        """Whether it will never run again."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as the server saw it. `size` in bytes, None until it is made; `message` says why it was not."""

    id: str
    devbox_id: str
    name: str | None
    status: str
    message: str
    size: int | None
    created_at_ms: int
    metadata: Mapping[str, str]
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> SnapshotInfo:
        """Raises BadAnswer when the answer is not a snapshot."""
        try:
            return cls(
                id=wire["id"],
                devbox_id=wire["source_devbox_id"],
                name=wire.get("name"),
                status=wire["status"],
                message=wire.get("error_message") or "",
                size=wire.get("size_bytes"),
                created_at_ms=wire["create_time_ms"],
                metadata=wire.get("metadata") or {},
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand snapshot: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class RemoteInfo:
    """A copy of a snapshot in the object store. `stored` in bytes as it lies there; `message` says why it is not."""

    id: str
    devbox_id: str
    snapshot_id: str
    parent_id: str | None
    name: str | None
    status: str
    message: str
    stored: int | None
    created_at_ms: int
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> RemoteInfo:
        """Raises BadAnswer when the answer is not a remote copy."""
        try:
            return cls(
                id=wire["id"],
                devbox_id=wire["source_devbox_id"],
                snapshot_id=wire["snapshot_id"],
                parent_id=wire.get("parent_id"),
                name=wire.get("name"),
                status=wire["status"],
                message=wire.get("error_message") or "",
                stored=wire.get("stored_bytes"),
                created_at_ms=wire["create_time_ms"],
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand remote copy: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class FailedStep:
    """The step of a Dockerfile that failed; `output` is the end of what it wrote."""

    number: int
    command: str
    exit_code: int | None
    output: str


@dataclass(frozen=True, slots=True)
class BlueprintInfo:
    """A blueprint as the server saw it. `message` says why it was not built; times in Unix milliseconds."""

    id: str
    name: str
    status: str
    state: str
    message: str
    failed_step: FailedStep | None
    base_id: str | None
    created_at_ms: int
    finished_at_ms: int | None
    metadata: Mapping[str, str]
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> BlueprintInfo:
        """Raises BadAnswer when the answer is not a blueprint."""
        try:
            step = wire.get("failed_step")
            return cls(
                id=wire["id"],
                name=wire["name"],
                status=wire["status"],
                state=wire["state"],
                message=wire.get("failure_message") or "",
                failed_step=FailedStep(step["number"], step["command"], step.get("exit_code"), step["output"])
                if step
                else None,
                base_id=wire.get("base_blueprint_id"),
                created_at_ms=wire["create_time_ms"],
                finished_at_ms=wire.get("build_finish_time_ms"),
                metadata=wire.get("metadata") or {},
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand blueprint: {error!r} in the answer") from error

    @property
    def has_ended(self) -> bool:
        """Whether its build is over, one way or the other."""
        return self.status in {"build_complete", "failed"}


@dataclass(frozen=True, slots=True)
class BuildLine:
    """One line of a build's log. What follows it is asked for by its `number`."""

    number: int
    level: str
    at_ms: int
    message: str
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> BuildLine:
        """Raises BadAnswer when the answer is not a line of a log."""
        try:
            return cls(wire["number"], wire["level"], wire["timestamp_ms"], wire["message"], wire)
        except (KeyError, TypeError) as error:
            raise errors.BadAnswer(f"cannot understand a line of a build's log: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object as the server saw it. `size` in bytes, None until it is whole; times in Unix milliseconds."""

    id: str
    name: str
    content_type: str
    state: str
    message: str
    size: int | None
    created_at_ms: int
    delete_after_ms: int | None
    metadata: Mapping[str, str]
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> ObjectInfo:
        """Raises BadAnswer when the answer is not an object."""
        try:
            return cls(
                id=wire["id"],
                name=wire["name"],
                content_type=wire["content_type"],
                state=wire["state"],
                message=wire.get("error_message") or "",
                size=wire.get("size_bytes"),
                created_at_ms=wire["create_time_ms"],
                delete_after_ms=wire.get("delete_after_time_ms"),
                metadata=wire.get("metadata") or {},
                raw={key: value for key, value in wire.items() if not key.startswith("upload_")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand object: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class Relative:
    """A devbox in a tree of forks; `parent_id` is the one whose disk it began as, None at the root."""

    id: str
    parent_id: str | None
    name: str | None
    status: str

    @classmethod
    def from_wire(cls, wire: Wire) -> Relative:
        """Raises BadAnswer when the answer is not a devbox of a tree."""
        try:
            return cls(wire["id"], wire.get("parent_id"), wire.get("name"), wire["status"])
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand lineage: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    """A command in a devbox as the server saw it. `stdout` and `stderr` are tails; cut ones have more before.

    `lost` means that the devbox ended first: nobody saw how the command ended, and its exit code is 137.
    `message` says what the exit code does not: that the disk was full, or why the command did not start.
    """

    id: str
    devbox_id: str
    status: str
    command: str | None
    shell_name: str | None
    exit_code: int | None
    stdout: str
    stderr: str
    stdout_cut: bool
    stderr_cut: bool
    lost: bool
    message: str
    created_at_ms: int | None
    ended_at_ms: int | None
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> ExecutionInfo:
        """Raises BadAnswer when the answer is not an execution."""
        try:
            return cls(
                id=wire["execution_id"],
                devbox_id=wire["devbox_id"],
                status=wire["status"],
                command=wire.get("command"),
                shell_name=wire.get("shell_name"),
                exit_code=wire.get("exit_status"),
                stdout=wire.get("stdout") or "",
                stderr=wire.get("stderr") or "",
                stdout_cut=bool(wire.get("stdout_truncated")),
                stderr_cut=bool(wire.get("stderr_truncated")),
                lost=bool(wire.get("lost")),
                message=wire.get("message") or "",
                created_at_ms=wire.get("create_time_ms"),
                ended_at_ms=wire.get("end_time_ms"),
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand execution: {error!r} in the answer") from error

    @property
    def completed(self) -> bool:
        """Whether the command has ended and its exit code is known."""
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a running devbox uses now, and its limits. CPU in microseconds and cores, the rest in bytes and tasks."""

    cpu_us: int
    memory: int
    memory_peak: int
    disk: int
    pids: int
    oom_kills: int
    cpu_limit: float
    memory_limit: int
    disk_limit: int
    pids_limit: int

    @classmethod
    def from_wire(cls, wire: Wire) -> Consumption:
        """Raises BadAnswer when the answer is not one."""
        try:
            limits = wire["limits"]
            return cls(
                cpu_us=wire["cpu_us"],
                memory=wire["memory_bytes"],
                memory_peak=wire["memory_peak_bytes"],
                disk=wire["disk_bytes"],
                pids=wire["pids"],
                oom_kills=wire["oom_kills"],
                cpu_limit=limits["cpu"],
                memory_limit=limits["memory_bytes"],
                disk_limit=limits["disk_bytes"],
                pids_limit=limits["pids"],
            )
        except (KeyError, TypeError) as error:
            raise errors.BadAnswer(f"cannot understand what a devbox uses: {error!r}") from None


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command that has ended, with everything that it wrote."""

    execution_id: str
    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output. `offset` is the position in bytes after it, from which a reader can go on."""

    stream: Stream
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a devbox's log. `at_ms` in Unix milliseconds; `cursor` is the place after it, if it was followed."""

    at_ms: int
    source: str
    level: str
    message: str
    command: str | None
    exit_code: int | None
    execution_id: str | None
    cursor: str | None
    raw: Wire = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire) -> LogEntry:
        """Raises BadAnswer when the answer is not a log entry."""
        try:
            return cls(
                at_ms=wire["timestamp_ms"],
                source=wire["source"],
                level=wire["level"],
                message=wire.get("message") or "",
                command=wire.get("cmd"),
                exit_code=wire.get("exit_code"),
                execution_id=wire.get("cmd_id"),
                cursor=wire.get("cursor"),
                raw=wire,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.BadAnswer(f"cannot understand log entry: {error!r} in the answer") from error


#: These become a part of a configuration or of an argument of ssh.
_SSH_FIELDS: Final = {
    "url": re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}"),
    "ssh_user": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"),
    "ssh_host_key": re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/=]{1,4096}"),
}


@dataclass(frozen=True, slots=True)
class SshKey:
    """A key that lets into one devbox by SSH until that ends. `private_key` is PEM and told once.

    The server listens at `host`, `port` and proves itself with `host_key` (`ssh-ed25519 …`); `name` is the devbox's
    own, for proxies that route by names.
    """

    name: str
    user: str
    host: str
    port: int
    host_key: str
    private_key: str = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Wire, *, host: str) -> SshKey:
        """Raises BadAnswer when the answer is not a key, or has what a program that is started must not be given."""
        try:
            for name, pattern in _SSH_FIELDS.items():
                if not pattern.fullmatch(wire[name]):
                    raise errors.BadAnswer(f"cannot use SSH key: {name} in the answer is {wire[name][:50]!r}")
            return cls(
                name=wire["url"],
                user=wire["ssh_user"],
                host=host,
                port=int(wire["ssh_port"]),
                host_key=wire["ssh_host_key"],
                private_key=wire["ssh_private_key"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise errors.BadAnswer(f"cannot understand SSH key: {error!r} in the answer") from error


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Size of a terminal in character cells, 1 to 1000 each."""

    rows: int = 24
    cols: int = 80
