"""Make a tree of everything that a box's disk can hold. Run as the box's root; standard library only."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Final

TREE: Final = b"/srv/tree"
CAP_DAC_OVERRIDE: Final = 1


def write(name: bytes, data: bytes = b"x") -> bytes:
    path = os.path.join(TREE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path


def names() -> None:
    for name in (b"odd name", b"two\nlines", b"\xff\xfe not utf-8", b"-rf *", b"\\", b"n" * 255, "ü".encode()):
        write(b"names/" + name, name)
    deep = b"deep/" + b"/".join([b"d" * 100] * 30)
    write(deep + b"/file", b"far down")


def content() -> None:
    write(b"content/empty", b"")
    write(b"content/inline", b"short enough to lie in the tree of files")
    write(b"content/random", os.urandom(3_000_000))
    sparse = write(b"content/sparse", b"begin")
    with open(sparse, "r+b") as file:
        for at in (1 << 20, 77 << 20, 300 << 20):
            file.seek(at)
            file.write(os.urandom(8192))
        file.truncate(1 << 30)
    with open(write(b"content/reserved", b""), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)


def links() -> None:
    first = write(b"links/first", b"of many names")
    for number in range(300):
        os.link(first, os.path.join(TREE, b"links", b"hard-%d" % number))
    os.makedirs(os.path.join(TREE, b"elsewhere"))
    os.link(first, os.path.join(TREE, b"elsewhere/hard"))
    for name, target in ((b"soft", b"first"), (b"dangling", b"/no\n\xff/where"), (b"long", b"../" * 1300 + b"x")):
        os.symlink(target, os.path.join(TREE, b"links", name))
    os.utime(os.path.join(TREE, b"links/soft"), ns=(1, 987_654_321), follow_symlinks=False)
    os.lchown(os.path.join(TREE, b"links/soft"), 12, 34)


def owners_modes_and_times() -> None:
    for number in (*range(0, 200, 7), 1000, 65533, 65534):
        path = write(b"owners/%d" % number)
        os.chown(path, number, 65534 - number)
    for mode in (0o0, 0o400, 0o644, 0o755, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777):
        os.chmod(write(b"modes/%o" % mode), mode)
        folder = os.path.join(TREE, b"modes/d%o" % mode)
        os.mkdir(folder)
        os.chmod(folder, mode)
    for number, at in enumerate((0, 1, 999_999_999, 1_234_567_890_123_456_789, -1, 4_102_444_800_000_000_001)):
        os.utime(write(b"times/%d" % number), ns=(at, at))


def special() -> None:
    os.makedirs(os.path.join(TREE, b"special"))
    os.mkfifo(os.path.join(TREE, b"special/fifo"), 0o620)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.join(TREE, b"special/socket"))


def attributes() -> None:
    path = write(b"attributes/file")
    os.setxattr(path, "user.text", b"value")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.bytes", bytes(range(256)) * 8)
    for number in range(50):
        os.setxattr(path, f"user.number-{number}", b"%d" % number)
    folder = os.path.join(TREE, b"attributes/folder")
    os.mkdir(folder)
    os.setxattr(folder, "user.of a folder", b"\x00\xff")
    # As the kernel has it: version 2; then tag, permissions, id: owner, user 1234, group, mask, others.
    entries = ((1, 6, 0xFFFFFFFF), (2, 5, 1234), (4, 4, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", acl)
    os.setxattr(folder, "system.posix_acl_default", acl)
    # A program that may read any file, whoever runs it.
    reader = os.path.join(TREE, b"attributes/reader")
    shutil.copy(b"/bin/cat", reader)
    os.setxattr(reader, "security.capability", struct.pack("<5I", 0x02000001, 1 << CAP_DAC_OVERRIDE, 0, 0, 0))
    os.chmod(write(b"attributes/roots", b"for root alone"), 0o600)


def many() -> None:
    for number in range(4000):
        write(b"many/%d" % number, b"")


def below() -> None:
    """What is changed of the image: removed, emptied, replaced, copied up."""
    os.remove("/etc/motd")
    shutil.rmtree("/usr/share/doc/bash")
    shutil.rmtree("/usr/share/doc/tar")
    os.mkdir("/usr/share/doc/tar")
    Path("/usr/share/doc/tar/new").write_text("of the box")
    os.remove("/etc/issue")
    os.symlink("motd", "/etc/issue")
    os.chmod("/etc/debian_version", 0o604)
    os.chown("/usr/share/doc/dash", 7, 7)
    with open("/etc/profile", "a") as file:
        file.write("# changed\n")
    os.rename("/etc/issue.net", "/etc/renamed")
    shutil.rmtree("/var/cache")


names()
content()
links()
owners_modes_and_times()
special()
attributes()
many()
below()
# What is made last changes the times of folders: these are set again.
os.utime(TREE, ns=(5, 5))
