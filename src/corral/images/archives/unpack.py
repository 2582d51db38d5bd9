"""One archive of one layer made a tree that an overlay can have as its lower: unpacked, judged, and read back.

Owns the pipeline: bytes are decompressed, hashed, split (`tar-split` keeps what a tree forgets of its archive) and
unpacked at the same time, none of them twice. Blocking; runs in a thread. Must not publish anything.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from corral.core import errors
from corral.images.archives import layout, sandbox, tree
from corral.images.archives.model import LayerFacts, Task

TREE: Final = "tree"
SPLIT: Final = "tar-split.gz"
WHOLE: Final = "layer.tar.zst"

_CHUNK: Final = 1 << 20
#: Programs that unpack, by the first bytes of what they unpack.
_PACKERS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
#: Attributes that are kept: what programs may have, and nothing that an overlay reads.
_ATTRIBUTES: Final = ("user.*", "security.capability")
#: What tar-split writes around what it has to say.
_LEVEL: Final = re.compile(r'^time="[^"]*" level=\w+ msg="(.*)"$')
#: A line of a program's complaint, at most.
_LONGEST_LINE: Final = 300


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer as a file, whatever it is compressed with, and the digest that its archive must have."""

    path: Path
    diff_id: str | None = None


def unpack(blob: Blob, folder: Path, where: str, task: Task) -> LayerFacts:
    """Make `folder/tree` of the blob, and beside it what gives the blob's archive back.

    `where` names the layer in messages. Raises errors.Invalid, errors.TooLarge; what it made then is the caller's to
    remove.
    """
    root = folder / TREE
    root.mkdir(mode=0o755)
    with ExitStack() as undo:
        stream = undo.enter_context(_decompressed(blob.path, where, task))
        splitter = undo.enter_context(_Splitter(folder / SPLIT, where, task))
        untar = undo.enter_context(_Untar(root, where, task))
        diff_id = _pump(stream, (splitter.input, untar.input), where, task)
        untar.finish()
        splitter.finish()
    if blob.diff_id not in {None, diff_id}:
        raise task.invalid(f"{where}: its content has the digest {diff_id}, not {blob.diff_id}")
    facts = tree.settle(root, where, task)
    kept = _keep(blob, folder, diff_id, where, task)
    return LayerFacts(diff_id, facts.size, facts.files, facts.surface, kept, _digest(folder / kept_file(kept)))


def kept_file(kept: str) -> str:
    """The file that a layer's `tar` names."""
    return SPLIT if kept == "split" else WHOLE


def split(root: Path, folder: Path, task: Task) -> LayerFacts:
    """Archive a tree that is no archive's yet: what `unpack` would have left of it. `root` is `folder/tree`.

    It may have been an overlay's upper folder, with removals.
    """
    tree.write_marks(root)
    argv = ["tar", "--create", "--file=-", "--sort=name", "--format=pax", "--numeric-owner", *_attributes(), "."]
    # Without the id of the process and times of access, the same tree always makes the same archive.
    argv.insert(1, "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
    walls = sandbox.Walls(reads=(("/tree", root),), folder="/tree", capabilities=sandbox.READ)
    with ExitStack() as undo:
        complaints = undo.enter_context(tempfile.TemporaryFile())
        packer = undo.enter_context(_started(sandbox.confined(argv, walls), complaints, stdout=subprocess.PIPE))
        splitter = undo.enter_context(_Splitter(folder / SPLIT, "tree", task))
        diff_id = _pump(_stdout(packer), (splitter.input,), "tree", task)
        _judge(packer, complaints, "tree", task)
        splitter.finish()
    facts = tree.settle(root, "tree", task)
    return LayerFacts(diff_id, facts.size, facts.files, facts.surface, "split", _digest(folder / SPLIT))


def archive(folder: Path, kept: str, task: Task) -> Reading:
    """The archive of the layer in `folder`, byte by byte, as `unpack` took it in: a context with a stream."""
    if kept == "whole":
        return Reading(["zstd", "--decompress", "--stdout"], sandbox.Walls(), folder / WHOLE, task)
    argv = ["tar-split", "asm", "--input", "/dev/stdin", "--path", "/tree", "--output", "-"]
    walls = sandbox.Walls(reads=(("/tree", folder / TREE),), folder="/tree", capabilities=sandbox.READ)
    return Reading(argv, walls, folder / SPLIT, task)


def digest_of(folder: Path, kept: str, task: Task) -> str:
    """Digest of the layer's archive as it can be given back now; "" when it cannot be."""
    digest = hashlib.sha256()
    reading = archive(folder, kept, task)
    with reading as stream:
        while chunk := stream.read(_CHUNK):
            task.check()
            digest.update(chunk)
        return f"sha256:{digest.hexdigest()}" if reading.whole() else ""


def pack(folder: Path, kept: str, target: Path, task: Task) -> str:
    """Write the archive of the layer in `folder` to a new file, compressed. Its digest; "" when it cannot be given."""
    digest = hashlib.sha256()
    reading = archive(folder, kept, task)
    with ExitStack() as undo:
        output = undo.enter_context(target.open("xb"))
        complaints = undo.enter_context(_complaints())
        # More threads than one would take the processors from the boxes.
        command = sandbox.confined(["zstd", "--quiet", "--stdout", "-3"], sandbox.Walls(file_size=task.limits.size))
        packer = undo.enter_context(_started(command, complaints, stdin=subprocess.PIPE, stdout=output))
        stream = undo.enter_context(reading)
        while chunk := stream.read(_CHUNK):
            task.check()
            digest.update(chunk)
            _write(_stdin(packer), chunk)
        _stdin(packer).close()
        whole = reading.whole()
        _judge(packer, complaints, "archive", task)
    return f"sha256:{digest.hexdigest()}" if whole else ""


class Reading:
    """A program whose output is an archive. `whole` after the end tells whether it came to the end."""

    def __init__(self, argv: Sequence[str], walls: sandbox.Walls, source: Path, task: Task) -> None:
        self._command = sandbox.confined(argv, walls)
        self._source = source
        self._undo = ExitStack()
        self._task = task
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IO[bytes]:
        source = self._undo.enter_context(self._source.open("rb"))
        complaints = self._undo.enter_context(tempfile.TemporaryFile())
        self._child = self._undo.enter_context(
            _started(self._command, complaints, stdin=source, stdout=subprocess.PIPE)
        )
        return _stdout(self._child)

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def whole(self) -> bool:
        """Whether the archive came to its end. To be asked after its last byte."""
        return self._child is not None and self._child.wait(60) == 0


class _Splitter:
    """`tar-split` on a copy of the archive: `input` takes it."""

    def __init__(self, target: Path, where: str, task: Task) -> None:
        self._where = where
        self._task = task
        self._undo = ExitStack()
        output = self._undo.enter_context(target.open("wb"))
        self._complaints = self._undo.enter_context(_complaints())
        argv = ["tar-split", "disasm", "--no-stdout", "--output", "/dev/stdout", "-"]
        walls = sandbox.Walls(file_size=task.limits.size)
        self._child = self._undo.enter_context(
            _started(sandbox.confined(argv, walls), self._complaints, stdin=subprocess.PIPE, stdout=output)
        )
        self.input = _stdin(self._child)

    def __enter__(self) -> _Splitter:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def finish(self) -> None:
        """Wait for the end. Raises errors.Invalid when it found the archive broken."""
        _judge(self._child, self._complaints, self._where, self._task)


class _Untar:
    """GNU tar unpacking into a folder, counted file by file: `input` takes the archive."""

    def __init__(self, root: Path, where: str, task: Task) -> None:
        self._where = where
        self._task = task
        self._undo = ExitStack()
        self._complaints = self._undo.enter_context(_complaints())
        argv = ["tar", "--extract", "--file=-", "--verbose", "--preserve-permissions", "--same-owner"]
        argv += ["--numeric-owner", "--quoting-style=escape", "--delay-directory-restore", *_attributes()]
        walls = sandbox.Walls(
            writes=(("/tree", root),), folder="/tree", capabilities=sandbox.UNPACK, file_size=task.limits.size
        )
        self._child = self._undo.enter_context(
            _started(sandbox.confined(argv, walls), self._complaints, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        self.input = _stdin(self._child)
        self._failure: Exception | None = None
        self._counter = threading.Thread(target=self._count, name="count files", daemon=True)
        self._counter.start()

    def __enter__(self) -> _Untar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            sandbox.end(self._child.pid)
        self._counter.join()
        self._undo.close()

    def finish(self) -> None:
        """Wait for the end. Raises errors.Invalid that names what tar stumbled over, errors.TooLarge."""
        try:
            _judge(self._child, self._complaints, self._where, self._task)
        finally:
            self._counter.join()
            if self._failure is not None:
                raise self._failure

    def _count(self) -> None:
        """One line for each file, from the parser that makes them: no other can count differently."""
        try:
            for line in _stdout(self._child):
                self._task.count(line.rstrip(b"\n").decode(errors="replace")[:_LONGEST_LINE], self._where)
        except (errors.CorralError, OSError) as failure:  # raised by `finish`, in the thread that asked
            self._failure = failure
            self._child.kill()


@contextmanager
def _decompressed(path: Path, where: str, task: Task) -> Iterator[IO[bytes]]:
    """What is in the file. A broken file raises errors.Invalid at the end."""
    try:
        source = layout.opened(path)
    except OSError as problem:
        raise task.invalid(f"{where}: blob {path.name} cannot be read: {problem.strerror}") from None
    with source:
        head = source.read(8)
        source.seek(0)
        packer = next((program for magic, program in _PACKERS if head.startswith(magic)), None)
        if packer is None:
            yield source
            return
        with tempfile.TemporaryFile() as complaints:
            command = sandbox.confined([packer, "--decompress", "--stdout"], sandbox.Walls())
            with _started(command, complaints, stdin=source, stdout=subprocess.PIPE) as child:
                yield _stdout(child)
                _judge(child, complaints, where, task)


def _pump(source: IO[bytes], targets: Sequence[IO[bytes]], where: str, task: Task) -> str:
    """Copy until the end and close the targets; the digest of all bytes. Who ends early is judged by its own words."""
    digest = hashlib.sha256()
    open_targets = list(targets)
    while chunk := source.read(_CHUNK):
        task.check()
        task.grow(len(chunk), where)
        digest.update(chunk)
        for target in list(open_targets):
            try:
                _write(target, chunk)
            except BrokenPipeError:
                open_targets.remove(target)
        if not open_targets:
            break
    for target in targets:
        target.close()
    return f"sha256:{digest.hexdigest()}"


def _write(target: IO[bytes], chunk: bytes) -> None:
    """All of it: a pipe takes what fits."""
    left = memoryview(chunk)
    while left:
        left = left[target.write(left) :]


def _keep(blob: Blob, folder: Path, diff_id: str, where: str, task: Task) -> str:
    """How the archive is kept. That the tree gives it back is not believed but read, which shows that all is there."""
    if digest_of(folder, "split", task) == diff_id:
        return "split"
    (folder / SPLIT).unlink()
    with (folder / WHOLE).open("wb") as output, tempfile.TemporaryFile() as complaints:
        command = sandbox.confined(["zstd", "--quiet", "--stdout"], sandbox.Walls(file_size=task.limits.size))
        with _started(command, complaints, stdin=subprocess.PIPE, stdout=output) as child:
            with _decompressed(blob.path, where, task) as stream:
                while chunk := stream.read(_CHUNK):
                    task.check()
                    _write(_stdin(child), chunk)
            _stdin(child).close()
            _judge(child, complaints, where, task)
    return "whole"


@contextmanager
def _started(
    command: Sequence[str],
    complaints: IO[bytes],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes],
) -> Iterator[subprocess.Popen[bytes]]:
    """The program while it runs; killed when the context ends before it has."""
    child = subprocess.Popen(list(command), stdin=stdin, stdout=stdout, stderr=complaints, bufsize=0, pipesize=_CHUNK)
    try:
        yield child
    finally:
        if child.poll() is None:
            sandbox.end(child.pid)
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def _judge(child: subprocess.Popen[bytes], complaints: IO[bytes], where: str, task: Task) -> None:
    """Wait for the program; raise errors.Invalid with the first line of its complaint unless it succeeded."""
    code = _wait(child, task)
    if not code:
        return
    complaints.seek(0)
    lines = list(filter(None, map(_cause, complaints.read(1 << 16).decode(errors="replace").splitlines())))
    cause = _short(lines[0]) if lines else f"its reader ended with {code}"
    raise task.invalid(f"{where}: {cause}")


def _short(line: str) -> str:
    """A name may be as long as a page, and the cause comes after it."""
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]}…{line[-half:]}"


def _cause(line: str) -> str:
    """What the line has to say; "" when that is no cause, but something that tar does in passing."""
    if ": Removing leading " in line:
        return ""
    found = _LEVEL.match(line)
    return (found[1] if found else line).removeprefix("tar: ").strip()


def _wait(child: subprocess.Popen[bytes], task: Task) -> int:
    """The exit code. Input has ended, so that only the program's own work is waited for."""
    while True:
        task.check()
        try:
            return child.wait(0.5)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _complaints() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


def _attributes() -> list[str]:
    return ["--xattrs", *(f"--xattrs-include={pattern}" for pattern in _ATTRIBUTES)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _stdout(child: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", child.stdout)


def _stdin(child: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", child.stdin)
