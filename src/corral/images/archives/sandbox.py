"""Programs that read what strangers wrote: started with nothing but what they need.

Owns the walls: no capabilities but named ones, a root with /usr alone, no network unless asked for, bounded files, and
an end with the process that started them. Must not know what the programs do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import errors

#: What unpacking needs, and no more: not CAP_MKNOD, so that no device can be made, nor CAP_SYS_ADMIN, so that no
#: attribute that means something to overlays can be set.
UNPACK: Final = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP")
#: Files of an image belong to anybody.
READ: Final = ("CAP_DAC_READ_SEARCH",)

_PROGRAMS: Final = ("bwrap", "prlimit", "skopeo", "tar", "tar-split", "gzip", "zstd", "xz", "bzip2")
#: What resolves names and knows certificates, for programs with a network.
_NETWORK_FILES: Final = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
    "/usr/local/share/ca-certificates",
)  # fmt: skip
_MEMORY: Final = 4 * 1024**3
_COMPLAINTS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Walls:
    """What one program gets. `reads` and `writes` map places inside to files or folders of the host.

    `file_size` bounds each file that it writes, in bytes; a little is left for its complaints.
    """

    reads: tuple[tuple[str, Path], ...] = ()
    writes: tuple[tuple[str, Path], ...] = ()
    folder: str = "/"
    capabilities: tuple[str, ...] = ()
    network: bool = False
    file_size: int = 0
    env: tuple[tuple[str, str], ...] = ()


def confined(argv: Sequence[str], walls: Walls) -> list[str]:
    """The command that runs `argv` behind the walls. It dies with the thread that starts it."""
    binds = [word for inside, path in walls.reads for word in ("--ro-bind", str(path), inside)]
    binds += [word for inside, path in walls.writes for word in ("--bind", str(path), inside)]
    shared = [word for path in _NETWORK_FILES for word in ("--ro-bind-try", path, path)] if walls.network else []
    env = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C", "TMPDIR": "/tmp", "HOME": "/tmp", **dict(walls.env)}  # noqa: S108
    return [
        *(
            "prlimit",
            f"--fsize={max(walls.file_size, _COMPLAINTS)}",
            "--core=0",
            "--nofile=1024",
            f"--data={_MEMORY}",
            "--",
        ),
        *("bwrap", "--die-with-parent", "--new-session", "--clearenv"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
        *(() if walls.network else ("--unshare-net",)),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/bin", "/bin"),
        *("--symlink", "usr/lib64", "/lib64", "--symlink", "usr/sbin", "/sbin"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(64 << 20), "--tmpfs", "/tmp"),  # noqa: S108
        *shared,
        *binds,
        *("--cap-drop", "ALL"),
        *(word for name in walls.capabilities for word in ("--cap-add", name)),
        *(word for name, value in env.items() for word in ("--setenv", name, value)),
        *("--chdir", walls.folder, "--"),
        *argv,
    ]


def end(pid: int) -> None:
    """Kill a command of `confined` that nobody has waited for yet, with all that is behind its walls.

    What bwrap starts dies with it only once it has asked the kernel for that: bwrap alone, killed in its first
    milliseconds, leaves a program behind that may compute for ever on what a hostile archive says.
    """
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGSTOP)  # from here on it starts nothing more
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(FileNotFoundError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)


def require_programs() -> None:
    """Raise errors.Unavailable, with the remedy, unless this host has the programs that do the work."""
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        message = f"cannot read or write images: no {', '.join(missing)} in PATH"
        raise errors.Unavailable(message, remedy="run make setup, or install bubblewrap, skopeo, tar-split and zstd")
