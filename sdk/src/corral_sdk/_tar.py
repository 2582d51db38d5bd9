"""Folders as tar archives: packed chunk by chunk, unpacked without trusting what is in them."""

from __future__ import annotations

import io
import os
import posixpath
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from corral_sdk import errors

if TYPE_CHECKING or sys.version_info >= (3, 11, 4):
    import tarfile
else:  # Debian 12 has 3.11.2, whose tarfile has no filters yet
    from backports import tarfile

CHUNK = 256 * 1024


#: Whether an archive leaves a path out, and everything below it if it is a folder that is not walked then.
Skip = Callable[[str, bool], bool]


def pack(folder: Path, skip: Skip | None = None) -> Iterator[bytes]:
    """Yield a tar archive of what is in `folder`, named relative to it. Links are kept as links, owners are not.

    `skip` is asked with a path relative to the folder and whether it is one: of folders that stay in only what is
    asked for as well goes in.

    Raises Invalid for what an archive cannot hold (sockets, devices) and for a file that shrinks meanwhile.
    """
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _walk(folder, folder, skip):
            info = archive.gettarinfo(path, path.relative_to(folder).as_posix())
            if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                raise errors.Invalid(f"cannot send {path}: it is not a file, a folder or a link")
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if info.isreg():
                yield from _content(path, info.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def size_of(folder: Path) -> int:
    """Sum of the sizes of the files in `folder`, in bytes; what a progress bar goes up to."""
    return sum(
        path.lstat().st_size for path in _walk(folder, folder, None) if path.is_file() and not path.is_symlink()
    )


def unpack(archive: BinaryIO, folder: Path) -> None:
    """Unpack an archive that came out of a devbox. Raises Invalid when a member would land outside `folder`.

    The devbox is not trusted: tarfile's data filter refuses absolute names, `..`, links that lead out, devices, and
    drops set-uid bits and owners. Nothing is unpacked through or over a link of the archive either, which no archive
    of a folder asks for: filters of several versions could be led out that way (CVE-2025-4517 and its like).
    """
    links: set[str] = set()

    def checked(member: tarfile.TarInfo, into: str) -> tarfile.TarInfo | None:
        name = posixpath.normpath(member.name)
        source = posixpath.normpath(member.linkname) if member.islnk() else ""
        if through := links.intersection((*_way(name), *_way(source))):
            raise errors.Invalid(f"cannot unpack archive of the devbox: {name!r} leads through link {min(through)!r}")
        if member.issym():
            links.add(name)
        return tarfile.data_filter(member, into)

    try:
        with tarfile.open(fileobj=archive, mode="r:") as members:
            members.extractall(folder, filter=checked)  # noqa: S202 - see `checked`
    except tarfile.FilterError as error:
        raise errors.Invalid(f"cannot unpack archive of the devbox: {error}") from error
    except tarfile.TarError as error:
        raise errors.BadAnswer(f"cannot unpack archive of the devbox: {error}") from error


def _way(name: str) -> Iterator[str]:
    """The name and the folders that it is in, the nearest first."""
    while name not in {"", "/", "."}:
        yield name
        name = posixpath.dirname(name)


def shell_path(path: str) -> str:
    """Quote a path of a devbox for its shell; `~/` is the home folder, and a leading dash is no option."""
    if path in {"~", "~/"}:
        return '"$HOME"'
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(f"./{path}" if path.startswith("-") else path or ".")


def _walk(folder: Path, top: Path, skip: Skip | None) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
        if skip is not None and skip(path.relative_to(top).as_posix(), is_folder):
            continue
        yield path
        if is_folder:
            yield from _walk(path, top, skip)


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise errors.Invalid(f"cannot send {path}: it became shorter while it was read")
            left -= len(chunk)
            yield chunk
    if padding := -size % tarfile.BLOCKSIZE:
        yield bytes(padding)
