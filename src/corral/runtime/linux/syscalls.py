"""System calls that Python 3.11 does not wrap, under their kernel names, raising OSError with the errno.

Standard library only: the launcher loads this. Owns no policy: what to mount or unshare is the caller's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_IDMAP: Final = 0x00100000

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_IN_ROOT: Final = 0x10

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_SECUREBITS: Final = 28
PR_SET_CHILD_SUBREAPER: Final = 36
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
SECBIT_NOROOT: Final = 1 << 0
SECBIT_NO_SETUID_FIXUP: Final = 1 << 2

CAP_SYS_RESOURCE: Final = 24
_CAPABILITY_VERSION_3: Final = 0x20080522
_NS_GET_OWNER_UID: Final = 0xB704

#: These calls came after the kernel unified its tables: the same number on every architecture.
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_OPENAT2: Final = 437
_NR_MOUNT_SETATTR: Final = 442

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """Move this process into new namespaces of the given kinds."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace that `fd` refers to."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount as mount(2) does."""
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data))
    _check(result, f"mount {fstype or 'on'} {target}")


def umount2(target: str, flags: int = 0) -> None:
    """Unmount `target`."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), f"umount {target}")


def open_tree(path: str, flags: int, *, dirfd: int = AT_FDCWD) -> int:
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE of a detached copy of it."""
    number = ctypes.c_long(_NR_OPEN_TREE)
    result = _libc.syscall(number, ctypes.c_int(dirfd), _bytes(path), ctypes.c_uint(flags))
    return _check(int(result), f"open_tree {path}")


def open_below(root: int, path: str, flags: int) -> int:
    """A descriptor of `path` as it is for whoever has `root` as the root folder: no link leads out of it."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    result = _libc.syscall(
        ctypes.c_long(_NR_OPENAT2),
        ctypes.c_int(root),
        _bytes(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _check(int(result), f"open {path}")


def mount_setattr(fd: int, *, attr_set: int, attr_clr: int = 0, userns_fd: int = 0) -> None:
    """Set attributes of the mount that `fd` refers to; MOUNT_ATTR_IDMAP takes the map of `userns_fd`."""
    attr = _MountAttr(attr_set=attr_set, attr_clr=attr_clr, userns_fd=userns_fd)
    result = _libc.syscall(
        ctypes.c_long(_NR_MOUNT_SETATTR),
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(AT_EMPTY_PATH),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _check(int(result), "mount_setattr")


def move_mount(fd: int, target: str | int) -> None:
    """Attach the detached mount that `fd` refers to at `target`, a path or a descriptor."""
    at, path, flags = (target, "", MOVE_MOUNT_T_EMPTY_PATH) if isinstance(target, int) else (AT_FDCWD, target, 0)
    result = _libc.syscall(
        ctypes.c_long(_NR_MOVE_MOUNT),
        ctypes.c_int(fd),
        b"",
        ctypes.c_int(at),
        _bytes(path),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | flags),
    )
    _check(int(result), f"move_mount {target}")


def prctl(option: int, argument: int | bytes) -> None:
    """Set one attribute of this process. `argument` is a number, or a name for PR_SET_NAME."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    _check(_libc.prctl(ctypes.c_int(option), value, 0, 0, 0), "prctl")


@contextlib.contextmanager
def file_ids(owner: int) -> Iterator[None]:
    """For the length of the block, what this thread does to files it does as user and group `owner`, with all rights.

    The securebit keeps the capabilities that the kernel would take with the change of user.
    """
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _libc.setfsgid(ctypes.c_uint(owner))
    _libc.setfsuid(ctypes.c_uint(owner))
    try:
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint(0))
        _libc.setfsgid(ctypes.c_uint(0))
        prctl(PR_SET_SECUREBITS, 0)


def machine() -> str:
    """The kernel's name of the architecture, such as x86_64."""
    return platform.machine()


def _capabilities() -> tuple[_CapHeader, ctypes.Array[_CapData]]:
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    _check(_libc.capget(ctypes.byref(header), data), "capget")
    return header, data


def has_capability(number: int) -> bool:
    """Whether this thread has a capability in effect."""
    _, data = _capabilities()
    return bool(data[number // 32].effective >> number % 32 & 1)


def become_with_capabilities(uid: int) -> None:
    """Change this process's user and group, and keep every capability, also for the programs that it becomes."""
    prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header, data = _capabilities()
    for part in data:
        part.inheritable = part.permitted
    _check(_libc.capset(ctypes.byref(header), data), "capset")
    for number in range(64):
        if data[number // 32].permitted >> number % 32 & 1:
            _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "prctl PR_CAP_AMBIENT")


def owner_of_userns(fd: int) -> int:
    """The host user who made the user namespace that `fd` refers to."""
    owner = ctypes.c_uint32()
    _check(
        _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(_NS_GET_OWNER_UID), ctypes.byref(owner)), "ioctl NS_GET_OWNER_UID"
    )
    return owner.value
