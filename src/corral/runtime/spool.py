"""Output and exit status of executions, as files on the host that outlive the server and the box.

Owns the layout `<root>/<box>/<exec>.{status,stdout,stderr,lost}`. The guest gets three write-only descriptors and
fills them; what it writes is hostile: every read here is bounded and every field checked. The `.lost` mark is the
host's own word, in a file that the guest has no descriptor of. Must not talk to a guest or know what a command was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TypeGuard

from corral.runtime.contract import GIB, BadCommand, ByteStream, ExecResult, NoSuchExecution, Stream

#: No dot and no slash, so that an id can be neither a path nor another id with a suffix.
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

#: A guest could stretch a file with ftruncate; nobody is told of, or sent, more than this of one stream.
STREAM_CAP: Final = GIB

STATUS_LIMIT: Final = 4096
LOST: Final = ExecResult(exit_code=137, lost=True)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_MAX_SIGNAL: Final = 64


@dataclass(slots=True)
class SpoolFds:
    """Write-only descriptors of one execution's files. A context manager that closes them."""

    stdout: int
    stderr: int
    status: int

    def close(self) -> None:
        """Close what is still open. Safe to call twice."""
        held, self.stdout, self.stderr, self.status = (self.stdout, self.stderr, self.status), -1, -1, -1
        for fd in held:
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> SpoolFds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Spool:
    """The spool of one data folder. Calls are a few system calls on local files; any thread may make them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, box: str, exec_id: str) -> SpoolFds:
        """Make the three files of a new execution and return them opened for writing.

        Raises FileExistsError when the id is known, BadCommand when an id cannot be a file name, OSError (ENOSPC,
        EMFILE, …) when the host cannot; nothing of it is left behind then.
        """
        if not (ID_PATTERN.fullmatch(box) and ID_PATTERN.fullmatch(exec_id)):
            message = f"cannot start execution {exec_id!r}: an id is 1 to 128 of A-Z a-z 0-9 _ -"
            raise BadCommand(message)
        # The status file comes first: making it is the claim on the id, so of two callers one gets all three files.
        made: dict[str, int] = {}
        try:
            for suffix in ("status", "stdout", "stderr"):
                made[suffix] = self._create(box, f"{exec_id}.{suffix}")
        except BaseException:
            for suffix, fd in reversed(made.items()):
                os.close(fd)
                os.unlink(f"{self.root}/{box}/{exec_id}.{suffix}")
            raise
        return SpoolFds(stdout=made["stdout"], stderr=made["stderr"], status=made["status"])

    def _create(self, box: str, name: str) -> int:
        path = f"{self.root}/{box}/{name}"
        try:
            return os.open(path, _CREATE, 0o600)
        except FileNotFoundError:  # the box's first execution
            (self.root / box).mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, _CREATE, 0o600)

    def known(self, box: str, exec_id: str) -> bool:
        """Whether the execution was opened and not discarded or forgotten."""
        path = self._path(box, exec_id, "status")
        return path is not None and os.path.exists(path)

    def size(self, box: str, exec_id: str, stream: Stream) -> int:
        """Bytes in the stream's file now, at most STREAM_CAP; 0 when there is none."""
        path = self._path(box, exec_id, stream.value)
        if path is None:
            return 0
        try:
            return min(os.stat(path).st_size, STREAM_CAP)
        except FileNotFoundError:
            return 0

    def missing(self, box: str, exec_id: str, stream: Stream) -> bool:
        """Whether the stream's file is shorter than the status line says, or there is none that says anything."""
        path = self._path(box, exec_id, "status")
        line = _read_line(path) if path is not None else None
        written = _fields(line or b"").get(f"{stream.value}_bytes")
        return not _is_int(written) or self.size(box, exec_id, stream) < min(written, STREAM_CAP)

    def read(self, box: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; b"" at the present end. Raises NoSuchExecution."""
        path = self._path(box, exec_id, stream.value)
        try:
            fd = os.open(path, _READ) if path is not None else None
        except FileNotFoundError:
            fd = None
        if fd is None:
            message = f"cannot read output of execution {exec_id!r}: box {box!r} has none of this id"
            raise NoSuchExecution(message)
        try:
            start = min(max(offset, 0), STREAM_CAP)
            return os.pread(fd, max(0, min(limit, STREAM_CAP - start)), start)
        finally:
            os.close(fd)

    def result(self, box: str, exec_id: str) -> ExecResult | None:
        """How the execution ended; None while it runs, or when it is not known.

        A complete status line that makes no sense is reported as lost: nobody credible saw the command end.
        """
        path = self._path(box, exec_id, "status")
        if path is None:
            return None
        line = _read_line(path)
        if line is not None:
            return parse_status(line)
        return LOST if os.path.exists(f"{path.removesuffix('.status')}.lost") else None

    def mark_lost(self, box: str, exec_id: str) -> None:
        """Record that the box ended first. Without effect when there is a result, or when the id is not known."""
        path = self._path(box, exec_id, "lost")
        if path is None or not self.known(box, exec_id) or self.result(box, exec_id) is not None:
            return
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, _CREATE, 0o600))

    def discard(self, box: str, exec_id: str) -> None:
        """Remove one execution that never started, so that its id is free again. Idempotent."""
        # The status file goes last: while it is there the id is taken.
        for suffix in ("stdout", "stderr", "lost", "status"):
            path = self._path(box, exec_id, suffix)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def forget(self, box: str) -> None:
        """Remove the files of all the box's executions. Idempotent."""
        if ID_PATTERN.fullmatch(box):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.root / box)

    def boxes(self) -> list[str]:
        """Ids of the boxes that have a spool."""
        return _names(self.root)

    def executions(self, box: str) -> list[str]:
        """Ids of the box's known executions, by name."""
        if not ID_PATTERN.fullmatch(box):
            return []
        names = (name.removesuffix(".status") for name in _names(self.root / box) if name.endswith(".status"))
        return sorted(name for name in names if ID_PATTERN.fullmatch(name))

    def _path(self, box: str, exec_id: str, suffix: str) -> str | None:
        """A string: a command's few paths as Path objects cost a tenth of its time in the server."""
        if ID_PATTERN.fullmatch(box) and ID_PATTERN.fullmatch(exec_id):
            return f"{self.root}/{box}/{exec_id}.{suffix}"
        return None


class SpooledStream(ByteStream):
    """An output stream whose first `passed` bytes are in the spool, where `read` gets them; the others come live."""

    def __init__(self, live: ByteStream, read: Callable[[int, int], bytes], passed: int) -> None:
        self._live = live
        self._read = read
        self._passed = passed
        self._at = 0

    async def read(self, limit: int = 65536) -> bytes:
        if self._at < self._passed:
            data = self._read(self._at, min(limit, self._passed - self._at))
            self._at += len(data)
            if data:
                return data
            self._passed = self._at  # the guest told of more than there is
        return await self._live.read(limit)

    async def write(self, data: bytes) -> None:
        await self._live.write(data)

    async def finish(self) -> None:
        await self._live.finish()

    async def close(self) -> None:
        await self._live.close()


def copy_start(source: Path, target: Path, size: int) -> None:
    """Make `target`, one of an execution's files, of the first `size` bytes of `source`. Raises OSError."""
    read = os.open(source, _READ)
    try:
        write = os.open(target, _CREATE, 0o600)
        try:
            left = size
            while left:
                copied = os.copy_file_range(read, write, left)
                if not copied:
                    raise OSError(errno.ENODATA, "it is shorter than it was", str(source))
                left -= copied
        finally:
            os.close(write)
    finally:
        os.close(read)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []


def _read_line(path: str) -> bytes | None:
    """The status file's first line without its end; None while there is no complete line.

    A file that has no line end in STATUS_LIMIT bytes will never have one: it is returned as it is, to be refused.
    """
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        data = os.pread(fd, STATUS_LIMIT, 0)
    finally:
        os.close(fd)
    line, end, _ = data.partition(b"\n")
    return line if end or len(data) == STATUS_LIMIT else None


def parse_status(line: bytes) -> ExecResult:
    """The guest's status line as a result; LOST when it is not one. Never raises: the line is hostile.

    `exit_code` is clamped to 0..255, and is 128 + signal when there is a signal, whatever the line says.
    """
    fields = _fields(line)
    code, signal = fields.get("exit_code"), fields.get("signal")
    if not _is_int(code) or not (signal is None or _is_int(signal)):
        return LOST
    if signal is not None and not 1 <= signal <= _MAX_SIGNAL:
        return LOST
    return ExecResult(
        exit_code=128 + signal if signal is not None else min(max(code, 0), 255),
        signal=signal,
        stdout_cut=fields.get("stdout_cut") is True,
        stderr_cut=fields.get("stderr_cut") is True,
    )


def _fields(line: bytes) -> dict[str, object]:
    """What the line says; nothing when it is not an object."""
    try:
        # RecursionError: 4,096 opening brackets are enough to overflow the parser.
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def status_line(result: ExecResult, stdout_bytes: int, stderr_bytes: int) -> bytes:
    """The line that a guest writes for `result`; for runtimes whose guest is this process."""
    fields = {
        "exit_code": result.exit_code,
        "signal": result.signal,
        "stdout_bytes": stdout_bytes,
        "stderr_bytes": stderr_bytes,
        "stdout_cut": result.stdout_cut,
        "stderr_cut": result.stderr_cut,
    }
    return json.dumps(fields).encode() + b"\n"
