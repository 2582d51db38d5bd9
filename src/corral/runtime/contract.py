"""What a runtime promises: how boxes exist on one machine, and every error that it may raise.

Owns the types that cross the line between a capability and a runtime. Must not know a database, HTTP,
an account or a devbox's wishes: a runtime is told what to do and says what is so.

A **box** is the runtime's side of a devbox: a root filesystem, namespaces, a cgroup and a guest. A runtime
keeps no record that must outlive a box, except the spool: the output and exit status of executions.
`corral.runtime.conformance` is this contract as tests.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
GIB = 1024 * MIB

#: Folders of a nested box where container engines keep images and containers.
STORES = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers")

#: Folder of a box where it finds layers that are lent to it, each by the part of its digest behind the colon.
LENT = "/var/lib/corral/layers"


# ---------------------------------------------------------------- what a box is made of


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


# ---------------------------------------------------------------- executions


class Stream(enum.StrEnum):
    """An output stream of an execution. A terminal writes everything to STDOUT."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Size of a pseudo-terminal in character cells."""

    rows: int = 24
    cols: int = 80


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run. `id` names it in the box and in the spool; the same id starts at most once.

    `argv[0]` is looked up in PATH. `env` is added to the box's. `cwd` None is the user's home. `user` None is the
    box's. `stdin` keeps a pipe open for `write_stdin`; without it standard input is /dev/null. `terminal` runs it on a
    pseudo-terminal. `output_limit` bounds each stream in the spool, in bytes: what is over it is dropped and the
    result says so. `hold` has each stream wait in its pipe until somebody is attached to it, so that whoever is sees
    all of it however much that is; a hold ends with the server that asked for it.

    The execution ends when its process ends. Children that it leaves behind go on running; what they write to its
    streams after that is read and dropped.
    """

    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    stdin: bool = False
    terminal: TerminalSize | None = None
    output_limit: int = 64 * MIB
    hold: bool = False


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How an execution ended. Killed by signal N: `exit_code` is 128 + N and `signal` is N.

    `lost` means that the box ended first: the exit code is then 137 and nobody saw the command end.
    """

    exit_code: int
    signal: int | None = None
    stdout_cut: bool = False
    stderr_cut: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The spool of an execution has grown to at least these sizes, in bytes; `result` once it has ended."""

    stdout: int
    stderr: int
    result: ExecResult | None = None


# ---------------------------------------------------------------- files and connections


class FileKind(enum.StrEnum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file in a box. `path` is absolute. `size` in bytes, `mtime` in Unix seconds, `mode` the permission bits."""

    path: str
    kind: FileKind
    size: int
    mode: int
    mtime: float
    uid: int
    gid: int


class FileReader(ABC):
    """A file opened for reading; iterate over its bytes in chunks of at most 256 KiB; close it when done."""

    info: FileInfo

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    async def close(self) -> None:
        """Stop reading and free the connection. Safe to call twice."""


class ByteStream(ABC):
    """A two-way connection: to a port in a box, or to the terminal or the pipes of an execution."""

    @abstractmethod
    async def read(self, limit: int = 65536) -> bytes:
        """Return the next bytes, at most `limit`; b"" when the other side has closed."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting while the other side is slow. Raises BoxGone when it is no more."""

    @abstractmethod
    async def finish(self) -> None:
        """Send end of file; reading goes on. A terminal has none. Raises BoxGone."""

    @abstractmethod
    async def close(self) -> None:
        """Close both directions. Safe to call twice."""


# ---------------------------------------------------------------- errors


class RuntimeFailure(Exception):
    """Base of everything that a runtime raises on purpose. `message` reads `cannot <verb> <object>: <cause>`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class HostUnfit(RuntimeFailure):
    """The host lacks something. `remedy` is a sentence, or a command, for the person who runs the host."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class HostExhausted(RuntimeFailure):
    """The host has no more of something (addresses, id ranges, memory, disk, processes). Nothing was left behind."""


class BoxExhausted(RuntimeFailure):
    """The box is at one of its own limits (tasks, memory): free something in it, or give it more."""


class BoxExists(RuntimeFailure):
    """A box with this id is on the host already."""


class BoxGone(RuntimeFailure):
    """There is no box with this id, or it is dead, or it died during the call."""


class NoSuchSnapshot(RuntimeFailure):
    """There is no snapshot of this name."""


class SnapshotExists(RuntimeFailure):
    """There is a snapshot of this name already."""


class MemoryNotKept(RuntimeFailure):
    """The box's processes cannot be written down, or not be made again. A box that ran goes on as it was."""


class BoxUnresponsive(RuntimeFailure):
    """The box lives, but its guest did not answer in time or answered nonsense."""


class BadCommand(RuntimeFailure):
    """The command was not started: no such program, directory or user, or not permitted. The caller's fault."""


class NoSuchExecution(RuntimeFailure):
    """The box knows no execution with this id."""


class ExecutionEnded(RuntimeFailure):
    """The execution has ended, or takes no input: nothing to signal, resize or write to."""


class FileProblemKind(enum.StrEnum):
    """Why a file call failed; from the errno that the box's kernel gave."""

    NOT_FOUND = "not-found"
    DENIED = "denied"
    IS_DIRECTORY = "is-directory"
    NOT_DIRECTORY = "not-directory"
    NO_SPACE = "no-space"
    BAD_PATH = "bad-path"
    OTHER = "other"


class FileProblem(RuntimeFailure):
    """A file call failed for a reason that lies in the box's file tree."""

    def __init__(self, message: str, *, kind: FileProblemKind) -> None:
        super().__init__(message)
        self.kind = kind


class PortClosed(RuntimeFailure):
    """Nothing in the box listens on this port."""


# ---------------------------------------------------------------- the contract


class Runtime(ABC):
    """Boxes on one machine. One instance per data folder; safe for concurrent calls from one event loop.

    Every call has a time limit of its own and can be cancelled: a cancelled `create` leaves nothing behind.
    """

    @abstractmethod
    async def start(self) -> None:
        """Make the host ready and adopt the boxes that live on it. Raises HostUnfit with the remedy."""

    @abstractmethod
    async def close(self) -> None:
        """Stop serving; boxes go on running and can be adopted by the next `start`. Safe to call twice."""

    @abstractmethod
    async def create(self, spec: BoxSpec) -> Box:
        """Make a box and return when its guest answers.

        Raises BoxExists, NoSuchSnapshot, HostExhausted, HostUnfit, BoxUnresponsive (its guest did not answer: nothing
        was left), MemoryNotKept (its processes could not be made again: as before).
        """

    @abstractmethod
    def expect(self, layers: tuple[Layer, ...]) -> None:
        """Boxes of these layers may be created soon. A hint, which may be without effect."""

    @abstractmethod
    async def layers(self, *, lasting: bool = False) -> set[Layer]:
        """Layers that boxes are on, or may be on soon: nobody may remove these. Only of those that outlive this
        process, when `lasting`.
        """

    @abstractmethod
    async def destroy(self, box_id: str) -> None:
        """End a box and remove all that it had on the host but its spool.

        Idempotent; works on dead and half-made boxes, and returns at once when there is nothing.
        Raises HostUnfit when the host refuses (the call can be repeated).
        """

    @abstractmethod
    async def boxes(self) -> list[Box]:
        """Every box on the host, dead and half-made ones too (as DEAD)."""

    @abstractmethod
    async def inspect(self, box_id: str) -> Box:
        """The box as it is now. Raises BoxGone when nothing of it is on the host."""

    @abstractmethod
    def deaths(self) -> AsyncIterator[Box]:
        """Boxes whose process 1 ended without `destroy`, as it happens. One consumer."""

    @abstractmethod
    async def usage(self, box_id: str) -> Usage:
        """What the box uses now. Raises BoxGone."""

    @abstractmethod
    async def ping(self, box_id: str, limit_s: float = 5.0) -> None:
        """Return once the box's guest says that it is there. Cheap for both; no activity of the box.

        Raises BoxGone, BoxUnresponsive (no answer within `limit_s` seconds, though it could have given one) and
        BoxExhausted (none either, but the box's own commands leave it no turn on the processor: nothing is wrong).
        """

    @abstractmethod
    async def usages(self, box_ids: Sequence[str]) -> dict[str, Usage]:
        """`usage` of many boxes for little more than the price of one call. Those that are gone are left out."""

    # -- snapshots

    @abstractmethod
    async def snapshot(self, box_id: str, name: str, *, memory: bool = False) -> Copied:
        """Keep a copy of a box's disk under `name`, for boxes to begin as; it outlives the box.

        All that the box's processes have written is in it, as of one moment in which they stand still.
        With `memory`, that and the processes of the same moment are kept as well, for any number of boxes that are
        created with `memory` as it: each goes on from there, with its own host name, address, environment of commands
        to come, and ids of executions, whose output begins with what the box's had. The box itself goes on; calls
        wait meanwhile, and what is attached or connected to it through the runtime is closed.
        Raises SnapshotExists, BoxGone, HostExhausted, HostUnfit, and for `memory` MemoryNotKept; there is no snapshot
        then.
        """

    @abstractmethod
    async def checkpoint(self, box_id: str, name: str) -> Copied:
        """As `snapshot`, of the box's memory and processes too; the box stands still from then on.

        Once it is destroyed, a box of the same id that is created with `origin` and `memory` goes on where it stood:
        with its processes, their memory, open files and listening sockets. Its executions are not lost meanwhile, and
        `follow` waits. TCP connections are closed. What was kept of the processes goes with `forget_snapshot`, which
        lets a box that still stands go on.
        Raises MemoryNotKept when it cannot be, and what `snapshot` raises; the box goes on then, and nothing is kept.
        """

    @abstractmethod
    async def copy_snapshot(self, source: str, name: str, *, memory: bool = False) -> tuple[int, tuple[str, ...]]:
        """Keep a snapshot under another name too; with `memory`, also what was kept with it of the box's processes,
        for boxes of other ids, as `snapshot` does.

        Returns the size of that memory in bytes, and the executions that ran. Raises NoSuchSnapshot, SnapshotExists,
        HostExhausted, HostUnfit, and for `memory` MemoryNotKept when there is none; there is no new snapshot then.
        """

    @abstractmethod
    async def forget_snapshot(self, name: str) -> None:
        """Remove a snapshot. Idempotent; boxes that began as it keep their disks. Raises HostUnfit."""

    @abstractmethod
    async def snapshots(self) -> list[str]:
        """Names of all snapshots."""

    @property
    @abstractmethod
    def snapshot_form(self) -> SnapshotForm:
        """What `send_snapshot` gives, and `receive_snapshot` takes. Known once it was started."""

    @abstractmethod
    def send_snapshot(self, name: str, parent: str | None = None) -> AsyncIterator[bytes]:
        """A snapshot as a compressed stream; with a `parent`, a snapshot too, only what is different from that.

        A parent can be named where the form says that there are differences. Close it when it is not read to its end.
        Raises NoSuchSnapshot, HostUnfit; what came before is no whole stream then.
        """

    @abstractmethod
    async def receive_snapshot(self, name: str, streams: AsyncIterator[AsyncIterator[bytes]]) -> None:
        """Make a snapshot of streams: of one that is whole, then of those that each begin as the one before.

        The streams must be what a runtime sent: what is in them is not looked at. There is no snapshot after an error.
        Raises SnapshotExists, HostExhausted, HostUnfit, and what the streams raise.
        """

    # -- executions

    @abstractmethod
    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        """Start a command and return once it runs. An id that was started before is not started again.

        Raises BadCommand, BoxGone, BoxUnresponsive, BoxExhausted (no more tasks or memory in the box),
        HostExhausted (the spool's disk is full, no more descriptors). Nothing was started then, and the id is free.
        """

    @abstractmethod
    def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        """Growth of the execution's spool, at most every 20 ms, then one Progress with its result.

        Works on executions that were started before a restart, and on ones whose box has ended (from the spool).
        Raises NoSuchExecution when neither the box nor the spool knows it.
        """

    @abstractmethod
    def read_output(self, box_id: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        """Bytes of the spool from `offset`; b"" at its present end. Works after the box has ended.

        Raises NoSuchExecution. Never blocks for longer than a read of a local file.
        """

    @abstractmethod
    def output_size(self, box_id: str, exec_id: str, stream: Stream) -> int:
        """Present size of the spool in bytes; 0 when there is none."""

    @abstractmethod
    async def signal(
        self, box_id: str, exec_id: str, signal: int, *, group: bool = True, foreground: bool = False
    ) -> None:
        """Send a signal to the command's process group, or to its process alone.

        `foreground` sends it to the process group that has the command's terminal instead: a shell's present job.
        Raises NoSuchExecution, ExecutionEnded (also when there is no such group), BoxGone.
        """

    @abstractmethod
    async def write_stdin(self, box_id: str, exec_id: str, data: bytes, *, close: bool = False) -> None:
        """Write to the command's standard input, then close it if asked (a terminal gets its end-of-file character).

        Raises NoSuchExecution, ExecutionEnded, BoxGone, BoxUnresponsive (it did not read for 30 s).
        """

    @abstractmethod
    async def resize(self, box_id: str, exec_id: str, size: TerminalSize) -> None:
        """Set the size of the execution's terminal. Raises NoSuchExecution, ExecutionEnded, BoxGone."""

    @abstractmethod
    async def attach(
        self, box_id: str, exec_id: str, *, stream: Stream | None = None, patient: bool = False
    ) -> ByteStream:
        """Connect to the execution's terminal: recent output first, then live; several may be attached.

        With `stream`, to that one of a command without a terminal, from its first byte; what is written to STDOUT's
        goes to the command's standard input, and `finish` ends that. Whoever is `patient` holds the output back
        for as long as it does not read; others are dropped after a moment.
        Raises NoSuchExecution, ExecutionEnded (also when it has no terminal, or for `stream` has one, or when a part
        of the stream was dropped before), BoxGone.
        """

    @abstractmethod
    async def forget_output(self, box_id: str) -> None:
        """Remove the spool of all the box's executions. Idempotent."""

    # -- files and ports. Paths are absolute, `~/…`, or relative to the home of `user`; None is the box's.

    @abstractmethod
    async def read_file(self, box_id: str, path: str, *, user: str | None = None) -> FileReader:
        """Open a regular file; a pipe, socket or device is BAD_PATH. Raises FileProblem, BoxGone, BoxUnresponsive."""

    @abstractmethod
    async def write_file(
        self, box_id: str, path: str, chunks: AsyncIterator[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        """Write a file whole, making its parent directories; return its size in bytes.

        The old content stays until the new is complete; after an error or a cancel it is as before. `mode` None keeps
        the mode of the file that is replaced; a new one gets 0644. The file belongs to `user`. A link is followed.
        Raises FileProblem, BoxGone, BoxUnresponsive.
        """

    @abstractmethod
    async def list_files(self, box_id: str, path: str, *, user: str | None = None) -> list[FileInfo]:
        """Entries of a directory by name, at most 10,000. Raises FileProblem, BoxGone, BoxUnresponsive."""

    @abstractmethod
    async def connect(self, box_id: str, port: int) -> ByteStream:
        """Connect to a TCP port on the box's loopback. Raises PortClosed, BoxGone, BoxUnresponsive."""
