"""A layer's tree after it was unpacked: judged file by file, and its removals made those of an overlay.

Owns what a layer may consist of. OCI writes "X is removed" as an empty file `.wh.X`, an overlay as a device 0:0 at X;
the attribute that makes a folder hide what is below it is set here, by nobody else. Must not follow any link.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.images.archives.model import Task

_MARK: Final = b".wh."
_OPAQUE_MARK: Final = b".wh..wh..opq"
#: Other marks that begin so are notes of an old union filesystem to itself.
_NOTES: Final = b".wh..wh."
_OPAQUE: Final = "trusted.overlay.opaque"
_NOTED: Final = "trusted.overlay."


@dataclass(slots=True)
class Facts:
    """Of a tree: bytes of its files, their number, and a digest of all but their contents and times of access."""

    size: int = 0
    files: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def surface(self) -> str:
        """The digest."""
        return f"sha256:{self._digest.hexdigest()}"

    def add(self, relative: bytes, facts: os.stat_result, extra: bytes) -> None:
        """Take one file into account."""
        plain = stat.S_ISREG(facts.st_mode)
        size = facts.st_size if plain else 0
        line = f"\0{facts.st_mode:o} {facts.st_uid} {facts.st_gid} {size} {facts.st_mtime_ns}\0"
        self._digest.update(relative + line.encode() + extra + b"\0")
        self.files += 1
        # A file with several names is counted for each of them in part, so that it counts once.
        self.size += size // facts.st_nlink if plain else 0


def hides(root: Path) -> bool:
    """Whether a folder of the tree hides what layers below have in it, for an overlay that the host mounts.

    One that is mounted in a user namespace does not see that: it cannot read `trusted` attributes.
    """
    return any(_is_opaque(folder) for folder in _folders(os.fsencode(root)))


def _is_opaque(folder: bytes) -> bool:
    try:
        return bool(os.getxattr(folder, _OPAQUE, follow_symlinks=False))
    except OSError as problem:
        if problem.errno != errno.ENODATA:
            raise
        return False


def settle(root: Path, where: str, task: Task) -> Facts:
    """Judge a tree that was unpacked, turn its marks into removals, and return what it is then.

    Raises errors.Invalid that names the entry which no layer may have.
    """
    try:
        for folder in _folders(os.fsencode(root)):
            _turn_marks(folder, os.fsencode(root), where, task)
        return survey(root, where, task)
    except OSError as problem:  # a path that is longer than the kernel takes, above all
        name = os.fsencode(problem.filename or b"")[len(os.fsencode(root)) :][:200]
        raise task.invalid(f"{where}: {_shown(name)}: {problem.strerror}") from None


def write_marks(root: Path) -> None:
    """The reverse: have an overlay's own folder say "X is removed" as OCI does, and forget what else overlays note.

    For a tree that was made on this host, with nobody else in it.
    """
    _forget(os.fsencode(root))
    for folder in _folders(os.fsencode(root)):
        times = os.lstat(folder)
        for entry in list(os.scandir(folder)):
            if _is_removal(entry.stat(follow_symlinks=False)):
                os.unlink(entry.path)  # noqa: PTH108 - bytes
                _touch(folder, _MARK + entry.name)
            else:
                _forget(entry.path)
        if _OPAQUE in os.listxattr(folder, follow_symlinks=False):
            _touch(folder, _OPAQUE_MARK)
            os.removexattr(folder, _OPAQUE, follow_symlinks=False)
        os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


def survey(root: Path, where: str, task: Task) -> Facts:
    """What the tree is now. Raises errors.Invalid that names the entry which no layer may have."""
    base = os.fsencode(root)
    facts = Facts()
    for folder in _folders(base):
        task.check()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for path in (folder, *(entry.path for entry in entries if not entry.is_dir(follow_symlinks=False))):
            found = os.lstat(path)
            relative = path[len(base) :]
            if not allowed(found):
                raise task.invalid(f"{where}: {_shown(relative)}: a device; layers have none")
            facts.add(relative, found, _extra(path, found))
    return facts


def allowed(facts: os.stat_result) -> bool:
    """Whether a layer may have it: anything but a device, of which only an overlay's removal (0:0) is one in name."""
    if stat.S_ISBLK(facts.st_mode):
        return False
    return not stat.S_ISCHR(facts.st_mode) or facts.st_rdev == 0


def _is_removal(facts: os.stat_result) -> bool:
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0


def _touch(folder: bytes, name: bytes) -> None:
    path = os.path.join(folder, name)  # noqa: PTH118 - bytes
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    os.utime(path, ns=(0, 0))


def _forget(path: bytes) -> None:
    """Remove what an overlay wrote down for itself, such as where a file was copied from."""
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(_NOTED) and name != _OPAQUE:
            os.removexattr(path, name, follow_symlinks=False)


def _turn_marks(folder: bytes, base: bytes, where: str, task: Task) -> None:
    entries = list(os.scandir(folder))
    devices = [entry.path for entry in entries if stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode)]
    if devices:
        raise task.invalid(f"{where}: {_shown(devices[0][len(base) :])}: a device; layers have none")
    marks = sorted(entry.name for entry in entries if entry.name.startswith(_MARK))
    if not marks:
        return
    times = os.lstat(folder)
    for name in marks:
        path = os.path.join(folder, name)  # noqa: PTH118 - bytes
        if not stat.S_ISREG(os.lstat(path).st_mode) or name.removeprefix(_MARK) in {b"", b".", b".."}:
            raise task.invalid(f"{where}: {_shown(path[len(base) :])}: named as a removal, which it cannot be")
        os.unlink(path)  # noqa: PTH108 - bytes
        if name == _OPAQUE_MARK:
            os.setxattr(folder, _OPAQUE, b"y")
        elif not name.startswith(_NOTES):
            _remove(folder, name.removeprefix(_MARK))
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


def _remove(folder: bytes, name: bytes) -> None:
    """Have the overlay show nothing of lower layers there. What this layer itself has there stays."""
    target = os.path.join(folder, name)  # noqa: PTH118 - bytes
    try:
        there = os.lstat(target)
    except FileNotFoundError:
        os.mknod(target, stat.S_IFCHR | 0o000, os.makedev(0, 0))
        return
    if stat.S_ISDIR(there.st_mode):
        os.setxattr(target, _OPAQUE, b"y")


def _folders(base: bytes) -> Iterator[bytes]:
    """The folder and all below it, each before what is in it. Changes inside a folder are seen once it is yielded."""
    left = [base]
    while left:
        folder = left.pop()
        yield folder
        left += sorted(
            (entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)), reverse=True
        )


def _extra(path: bytes, facts: os.stat_result) -> bytes:
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(path)  # noqa: PTH115 - bytes
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        return b""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return b"".join(os.fsencode(name) + b"=" + os.getxattr(path, name, follow_symlinks=False) for name in names)


def _shown(relative: bytes) -> str:
    return relative.lstrip(b"/").decode(errors="backslashreplace") or "."
