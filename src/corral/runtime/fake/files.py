"""File calls of the fake, inside a box's private tree.

Owns the mapping of box paths and the rules of who may do what: everything in the home and in the temporary
folders belongs to the box's user, everything else to root. Owner bits count, group and others do not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from corral.runtime.contract import FileInfo, FileKind, FileProblem, FileProblemKind, FileReader, User

CHUNK = 256 * 1024
LIST_LIMIT = 10_000
_PUBLIC = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - paths in the box, not on the host
_PATH_MAX = 4096
_READ, _WRITE, _SEARCH = stat.S_IRUSR, stat.S_IWUSR, stat.S_IXUSR

_KINDS = {
    errno.ENOENT: FileProblemKind.NOT_FOUND,
    errno.EACCES: FileProblemKind.DENIED,
    errno.EPERM: FileProblemKind.DENIED,
    errno.EISDIR: FileProblemKind.IS_DIRECTORY,
    errno.ENOTDIR: FileProblemKind.NOT_DIRECTORY,
    errno.ENOSPC: FileProblemKind.NO_SPACE,
    errno.EDQUOT: FileProblemKind.NO_SPACE,
    errno.ENAMETOOLONG: FileProblemKind.BAD_PATH,
    errno.ELOOP: FileProblemKind.BAD_PATH,
    errno.EINVAL: FileProblemKind.BAD_PATH,
}


class Tree:
    """The file system of one box."""

    def __init__(self, root: Path, user: User) -> None:
        self.root, self.user = root, user

    def make(self) -> None:
        """Make the folders that every box has."""
        for path in (self.user.home, "/root", "/etc", "/usr", "/dev", *_PUBLIC):
            self.at(path).mkdir(parents=True, exist_ok=True)
        for device in ("null", "zero", "urandom"):
            if not self.at(f"/dev/{device}").is_symlink():
                self.at(f"/dev/{device}").symlink_to(f"/dev/{device}")

    def at(self, path: str) -> Path:
        """Where an absolute box path is on the host."""
        return self.root / path.lstrip("/")

    def inside(self, argument: str) -> str:
        """An argument of a command; a path in a temporary folder is the box's: the host's is one for all boxes."""
        return str(self.at(argument)) if argument.startswith(tuple(f"{folder}/" for folder in _PUBLIC)) else argument

    def absolute(self, path: str, verb: str, user: str | None = None) -> str:
        """The box's absolute form of `path`. Raises FileProblem when it cannot be one."""
        if not path or "\0" in path or len(path) >= _PATH_MAX:
            message = f"cannot {verb} {path!r}: not a path"
            raise FileProblem(message, kind=FileProblemKind.BAD_PATH)
        home = "/root" if user == "root" else self.user.home
        if path == "~" or path.startswith("~/"):
            path = home + path[1:]
        return "/" + posixpath.normpath(posixpath.join(home, path)).lstrip("/")

    def owned_by_user(self, path: str) -> bool:
        """Whether the box's user, not root, owns what is at `path`."""
        homes = (self.user.home, *_PUBLIC)
        return any(path == home or path.startswith(home + "/") for home in homes)

    def check(self, path: str, bits: int, user: str) -> None:
        """Raise EACCES when `user` may not use `path` so, or may not search a folder above it."""
        names = path.strip("/").split("/")
        for depth in range(1, len(names)):
            folder = self.at("/".join(names[:depth]))
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if folder.exists() and user != "root":
                self._check_one("/" + "/".join(names[:depth]), _SEARCH)
        if user != "root":
            self._check_one(path, bits)

    def _check_one(self, path: str, bits: int) -> None:
        if not self.owned_by_user(path):
            if bits & _WRITE or path == "/root":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        if not stat.S_IMODE(self.at(path).stat().st_mode) & bits:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def info(self, path: str, status: os.stat_result) -> FileInfo:
        """What a listing says of a file."""
        mine = self.owned_by_user(path)
        return FileInfo(
            path=path,
            kind=_kind(status.st_mode),
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            mtime=status.st_mtime,
            uid=self.user.uid if mine else 0,
            gid=self.user.gid if mine else 0,
        )


class TreeReader(FileReader):
    """A file of the tree, opened."""

    def __init__(self, fd: int, info: FileInfo) -> None:
        self._fd, self.info = fd, info

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._fd >= 0 and (chunk := os.read(self._fd, CHUNK)):
            yield chunk

    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_file(tree: Tree, path: str, user: str) -> TreeReader:
    """Open a regular file. Raises FileProblem."""
    name = tree.absolute(path, "read", user)
    with problems("read", path):
        tree.check(name, _READ, user)
        fd = _open(tree.at(name), user)
    info = tree.info(name, os.fstat(fd))
    if info.kind is FileKind.FILE:
        return TreeReader(fd, info)
    os.close(fd)
    kind = FileProblemKind.IS_DIRECTORY if info.kind is FileKind.DIRECTORY else FileProblemKind.BAD_PATH
    message = f"cannot read {path!r}: not a regular file"
    raise FileProblem(message, kind=kind)


def _open(path: Path, user: str) -> int:
    # Without O_NONBLOCK the open of a named pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except PermissionError:
        if user != "root":
            raise
        # Root in the box may read all, also where the test process is nobody special: it owns the file.
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IRUSR)
        try:
            return os.open(path, flags)
        finally:
            path.chmod(mode)


async def write_file(tree: Tree, path: str, chunks: AsyncIterator[bytes], user: str, mode: int | None) -> int:
    """Write beside the target, then take its place. Raises FileProblem, and whatever `chunks` raises."""
    name = tree.absolute(path, "write", user)
    if path.endswith("/"):
        message = f"cannot write {path!r}: it names a directory"
        raise FileProblem(message, kind=FileProblemKind.IS_DIRECTORY)
    with problems("write", path):
        target = _target(tree, name, user)
        fd, beside = tempfile.mkstemp(prefix=".corral-", dir=target.parent)
    try:
        size = await _fill(fd, path, chunks)
        with problems("write", path):
            os.fchmod(fd, _mode(target) if mode is None else mode & 0o7777)
            os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise
    finally:
        os.close(fd)
    return size


async def _fill(fd: int, path: str, chunks: AsyncIterator[bytes]) -> int:
    size = 0
    async for chunk in chunks:
        rest = memoryview(chunk)
        with problems("write", path):
            while rest:
                rest = rest[os.write(fd, rest) :]
        size += len(chunk)
    return size


def _target(tree: Tree, name: str, user: str) -> Path:
    """The file that is to be replaced, a link followed; its parents are made."""
    target = tree.at(name)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    above = posixpath.dirname(name)
    while not os.path.lexists(tree.at(above)):
        above = posixpath.dirname(above)
    if not tree.at(above).is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    tree.check(above, _WRITE, user)
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _mode(target: Path) -> int:
    """The mode of the file that is replaced; 0644 for a new one."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return 0o644


def list_files(tree: Tree, path: str, user: str) -> list[FileInfo]:
    """Entries of a directory by name. Raises FileProblem."""
    name = tree.absolute(path, "list", user)
    with problems("list", path):
        tree.check(name, _READ, user)
        names = sorted(os.listdir(tree.at(name)))[:LIST_LIMIT]
        paths = [posixpath.join(name, entry) for entry in names]
        return [tree.info(entry, tree.at(entry).lstat()) for entry in paths]


@contextlib.contextmanager
def problems(verb: str, path: str) -> Iterator[None]:
    """Turn an OSError into the FileProblem that a guest would report."""
    try:
        yield
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, FileProblemKind.OTHER)
        message = f"cannot {verb} {path!r}: {error.strerror}"
        raise FileProblem(message, kind=kind) from error


def _kind(mode: int) -> FileKind:
    if stat.S_ISREG(mode):
        return FileKind.FILE
    if stat.S_ISDIR(mode):
        return FileKind.DIRECTORY
    return FileKind.SYMLINK if stat.S_ISLNK(mode) else FileKind.OTHER
