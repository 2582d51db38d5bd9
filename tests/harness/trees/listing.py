"""List a box's whole disk, one line for each entry: its name and everything that `stat`, links, attributes, holes
and content tell of it. Run as the box's root; standard library only. Argument: the file to write, on another disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator

#: Written anew in every box: its own names.
OWN = {b"/etc/hosts", b"/etc/hostname"}
#: Content is read where this box may have changed it: the image's files are read-only in all boxes.
READ = (b"/srv/tree", b"/etc", b"/home", b"/usr/share/doc", b"/root", b"/opt")


def entries(device: int, folder: bytes = b"/") -> Iterator[bytes]:
    """Every path of this disk, folders before what is in them."""
    yield folder
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
            yield from entries(device, path)
        elif not stat.S_ISDIR(found.st_mode):
            yield path


def extents(file: int, size: int) -> list[tuple[int, int]]:
    """Where there is data, in bytes."""
    found, at = [], 0
    while at < size:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(file, begin, os.SEEK_HOLE)
        found.append((begin, at))
    return found


def content(path: bytes, size: int) -> list[object]:
    """Its extents, and a digest of what is in them."""
    file = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        digest = hashlib.sha256()
        where = extents(file, size)
        for begin, end in where:
            os.lseek(file, begin, os.SEEK_SET)
            left = min(end, size) - begin
            while left > 0:
                piece = os.read(file, min(left, 1 << 20))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
        return [where, digest.hexdigest()]
    finally:
        os.close(file)


def line(path: bytes, first: dict[int, bytes]) -> str:
    """All of one entry; `first` has the first name of each file that has several."""
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    told: list[object] = [path, oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns]
    if kind != stat.S_IFDIR:
        told += [found.st_size, found.st_nlink, found.st_rdev]
    if found.st_nlink > 1 and kind != stat.S_IFDIR:
        told.append(first.setdefault(found.st_ino, path))
    attributes = sorted(os.listxattr(path, follow_symlinks=False))
    told.append([(name, os.getxattr(path, name, follow_symlinks=False)) for name in attributes])
    if kind == stat.S_IFLNK:
        told.append(os.readlink(path))
    if kind == stat.S_IFREG and path.startswith(READ):
        told += content(path, found.st_size)
    return repr(told)


def main(target: str) -> None:
    sys.setrecursionlimit(10_000)
    first: dict[int, bytes] = {}
    with open(target, "w") as file:
        for path in entries(os.lstat(b"/").st_dev):
            if path not in OWN:
                file.write(line(path, first) + "\n")


main(sys.argv[1])
