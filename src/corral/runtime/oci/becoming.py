"""What a child of the launcher does before it becomes another program: the OCI runtime of a new box, or CRIU.

Runs after a fork of the launcher, which is small so that this is cheap; what fails is told in the report, a pipe.
Decides nothing: requests say what to do.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Final

from corral.runtime.linux import syscalls
from corral.runtime.network import namespace
from corral.runtime.oci import delegation, restoring, wire
from corral.runtime.oci.reports import LOG_LIMIT
from corral.runtime.rootfs import steps

LISTEN_BACKLOG: Final = 128
_GUEST_FD: Final = 3


def become_runtime(request: wire.Message, slot: namespace.Slot, told: int) -> None:
    """Make the box's mounts and socket, then exec the OCI runtime. Never returns."""
    what = "start"
    began = time.monotonic()
    try:
        for path, text in request["write"].items():
            what = f"write {Path(path).name}"
            _write(path, text)
        if request["nested"] is not None:
            what = "give a nested box its own"
            delegation.give(owner=slot.id_base, **request["nested"])
        what = "unshare"
        syscalls.unshare(syscalls.CLONE_NEWNS)
        for fields in request["steps"]:
            step = steps.unpack(fields)
            what = step.describe()
            step.execute(slot.userns_for)
        what = "listen"
        _forget_streams()
        _limit()
        _listen(request["socket"], slot.net)
        _exec(request, told, began)
    except BaseException as error:  # noqa: BLE001 - a forked child must report and end, whatever happened
        code = error.errno if isinstance(error, OSError) else 0
        os.write(told, json.dumps({"error": f"{what}: {error}"[:LOG_LIMIT], "errno": code}).encode())
    finally:
        os._exit(70)


def become_criu(request: wire.Message, told: int) -> None:
    """Dump a box, or make one again from its dump: exec CRIU. Never returns."""
    began = time.monotonic()
    try:
        if request["op"] == "dump":
            restoring.prepare_dump(request)
        else:
            restoring.prepare_restore(request)
            _listen(request["socket"], None)
        _exec(request, told, began)
    except BaseException as error:  # noqa: BLE001 - a forked child must report and end, whatever happened
        code = error.errno if isinstance(error, OSError) else 0
        os.write(told, json.dumps({"error": f"{request['op']}: {error}"[:LOG_LIMIT], "errno": code}).encode())
    finally:
        os._exit(70)


def _exec(request: wire.Message, told: int, began: float) -> None:
    os.write(told, json.dumps({"ms": round((time.monotonic() - began) * 1000, 3)}).encode())
    argv: list[str] = request["argv"]
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.execvp(argv[0], argv)  # noqa: S606 - an argument vector, without a shell


def _forget_streams() -> None:
    """Standard streams that lead nowhere: a pipe without a writer to read from, one without a reader to write to.

    Not /dev/null: crun gives the streams to the box's root, and would so give away the host's own device node.
    """
    empty, end = os.pipe()
    os.close(end)
    os.dup2(empty, 0, inheritable=True)
    end, full = os.pipe()
    os.close(end)
    for fd in (1, 2):
        os.dup2(full, fd, inheritable=True)


def _limit() -> None:
    """The limits of the box's processes. Not in the bundle: runc sets those from outside, when the box's ids are no
    longer its own, and a host's root without CAP_SYS_RESOURCE may not.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _listen(path: str, net: int | None) -> None:
    """Listen on `path` as descriptor 3. Bound by a relative name: socket addresses end after 108 bytes.

    In the box's network namespace `net`, though its path is the host's: what dumps a box looks for its sockets there.
    """
    os.chdir(Path(path).parent)
    if net is not None:
        syscalls.setns(net, syscalls.CLONE_NEWNET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(Path(path).name)
    os.chmod(Path(path).name, 0o600)
    listener.listen(LISTEN_BACKLOG)
    # A guest that is made again has been told already that it is.
    listener.setblocking(False)
    os.dup2(listener.fileno(), _GUEST_FD, inheritable=True)
    os.chdir("/")
