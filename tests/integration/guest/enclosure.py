"""Run the guest as a box would: root of its own user, process, mount, network, name and IPC namespaces.

Started as a program with the number of a pipe, the guest's path and its arguments; standard library only. Descriptor 3
is the listening socket. Host root maps 65,536 ids of no account into it, so that changing users works as in a box.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

NAMESPACES = 0x20000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x40000000
NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
SIGKILL = 9
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
MS_REC_PRIVATE = 0x4000 | 0x40000

PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\nother:x:1001:1001::/home/other:/bin/sh\n"
)
GROUP = "root:x:0:\ntty:x:5:\nusers:x:100:user\nuser:x:1000:\nother:x:1001:\nextra:x:2000:other,user\n"

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Make a call of libc that answers -1 on failure."""
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{arguments}: {os.strerror(code)}")


def mount(kind: bytes, target: str, options: bytes = b"") -> None:
    """Mount a fresh filesystem of `kind`."""
    call("mount", kind, target.encode(), kind, 0, options)


def furnish() -> None:
    """Hide what is the host's, and make the files of a small system."""
    call("mount", None, b"/", None, MS_REC_PRIVATE, None)
    mount(b"proc", "/proc")
    mount(b"devpts", "/dev/pts", b"newinstance,ptmxmode=0666,mode=0620,gid=5")
    for folder in ("/etc", "/home", "/root", "/tmp", "/var/tmp", "/run", "/mnt"):
        mount(b"tmpfs", folder, b"mode=0755,size=1500m")
    Path("/tmp").chmod(0o1777)
    Path("/var/tmp").chmod(0o1777)
    Path("/etc/passwd").write_text(PASSWD)
    Path("/etc/group").write_text(GROUP)
    for name, number in (("user", 1000), ("other", 1001)):
        home = Path("/home") / name
        home.mkdir()
        os.chown(home, number, number)
    with socket.socket() as probe:
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main(gate: int, guest: str, *arguments: str) -> None:
    """Enter the namespaces, wait at `gate` until the host has written the id maps, become the guest."""
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    # Found before `furnish` hides the folders of the host: the source tree may lie under any of them.
    program = os.open(guest, os.O_PATH | os.O_CLOEXEC)
    call("unshare", NEWUSER)
    os.write(gate, b"u")
    if os.read(gate, 1) != b"m":
        sys.exit("the host gave up")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    call("unshare", NAMESPACES)
    child = os.fork()
    if child:
        # Changing users has cleared it.
        call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        os.write(gate, struct.pack("<I", child))
        os.close(gate)
        os.waitpid(child, 0)
        return
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    furnish()
    os.execve(program, [guest, *arguments], {"PATH": "/usr/bin:/bin"})


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
