"""What a child of the launcher does to dump a box, or to make one again of its dump: it becomes CRIU.

Standard library only. Must not decide anything: requests say what to do.
"""

from __future__ import annotations

import os
import resource
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from corral.runtime.linux import syscalls
from corral.runtime.network.namespace import make_userns
from corral.runtime.rootfs import steps

#: Called at each of CRIU's stages: the shell says no faster than an interpreter.
_HOOK: Final = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != setup-namespaces ] || exec {python} -m corral.runtime.oci.attaching
"""


def write_hook(path: Path) -> None:
    """The program that CRIU calls at its stages."""
    partial = path.with_name(f"{path.name}.new-{os.getpid()}")
    partial.write_text(_HOOK.format(python=shlex.quote(sys.executable)))
    partial.chmod(0o700)
    partial.rename(path)


def prepare_dump(request: Mapping[str, Any]) -> None:
    """Become the user who may look at the box."""
    os.environ["XDG_RUNTIME_DIR"] = request["cache"]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    _show_terminals()
    _forget_streams()
    if request["owner"]:
        syscalls.become_with_capabilities(request["owner"])


def prepare_restore(request: Mapping[str, Any]) -> None:
    """Make the box's mounts, open its files, and enter its control group. The socket is made last, by the caller."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    userns: dict[int, int] = {}

    def userns_of(layer_base: int) -> int:
        if layer_base not in userns:
            userns[layer_base] = make_userns(layer_base, request["id_base"])
        return userns[layer_base]

    for fields in request["steps"]:
        steps.unpack(fields).execute(userns_of)
    _show_terminals()
    _forget_streams()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number, path, size in request["files"]:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        # A box that was made of these images before, and that no server has heard of, may have gone on already.
        os.ftruncate(fd, size)
        os.lseek(fd, 0, os.SEEK_END)
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
    for group in request["groups"]:
        fd = os.open(f"{group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    if request["groups_at"]:
        flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("cgroup", request["groups_at"], "cgroup2", flags)
    os.environ["SLOT_WISH"] = request["wish"]


def _show_terminals() -> None:
    """CRIU compares the terminals of a box with those of the host, which the launcher has no mount of."""
    syscalls.mount("devpts", "/dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC)


def _forget_streams() -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd, inheritable=True)
