"""The calls of a runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from corral.runtime.contract.boxes import Box, BoxSpec, Copied, Layer, SnapshotForm, Usage
from corral.runtime.contract.executions import ExecSpec, Progress, Stream, TerminalSize
from corral.runtime.contract.files import ByteStream, FileInfo, FileReader


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
    def output_missing(self, box_id: str, exec_id: str, stream: Stream) -> bool:
        """Whether not all that an ended execution wrote is in the spool, or that cannot be told.

        A loss of power takes what the host had not written to its disk; the spool is forgotten at `forget_output`.
        """

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
