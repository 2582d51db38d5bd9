"""CRIU: where the program is, what it is called with, and what it says when it refuses.

Pure but for `find` and `try_out`. Must not know boxes: paths, keys and numbers are given.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.runtime.linux import syscalls

#: Older ones do not know the vDSO of kernels that boxes need; and from Linux 6.16 on, not how to ask a TCP socket.
OLDEST: Final = (4, 0)
OLDEST_FOR: Final = ((6, 16), (4, 2))
#: For the processes to stand still.
SEIZE_LIMIT_S: Final = 10
#: Of a file without a name that a process holds, which goes into the images.
GHOST_LIMIT: Final = "256M"
_LOADERS: Final = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
#: CRIU tells these of itself, and goes on.
_HARMLESS: Final = ("rlimit: Can't setup RLIMIT_NOFILE",)
_ERROR: Final = re.compile(r"Error \([^)]*\): (.*)")
_LONGEST: Final = 200
_PROBE_S: Final = 20
#: Of a box's listening socket in an image, and of the files of its executions.
LISTENER: Final = "corral-listener"


class NoCriu(Exception):
    """There is no CRIU that works here. The text says why."""


@dataclass(frozen=True, slots=True)
class Criu:
    """A program that was found. `argv` begins every call."""

    argv: tuple[str, ...]
    version: str


def find(folder: Path) -> Criu:
    """The CRIU of this host: the one that the set-up put into `folder`, with its own libraries, or the host's.

    Raises NoCriu.
    """
    program = folder / "usr/sbin/criu"
    for library in (folder / "usr/lib").glob("*-linux-gnu") if program.is_file() else ():
        for loader in _LOADERS:
            if (library / loader).is_file():
                return _checked((str(library / loader), "--library-path", str(library), str(program)))
    installed = shutil.which("criu")
    if installed is None:
        message = "criu is not installed"
        raise NoCriu(message)
    return _checked((installed,))


def _checked(argv: tuple[str, ...]) -> Criu:
    try:
        done = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"criu does not start: {error}"
        raise NoCriu(message) from error
    match = re.search(r"Version: (\d+\.\d+\S*)", done.stdout)
    if match is None:
        message = f"criu does not tell its version: {done.stderr.strip()[:_LONGEST]}"
        raise NoCriu(message)
    kernel, newer = OLDEST_FOR
    needed = newer if _version(os.uname().release) >= kernel else OLDEST
    if _version(match[1]) < needed:
        message = f"criu {match[1]} is too old: {needed[0]}.{needed[1]} is needed"
        raise NoCriu(message)
    return Criu(argv, match[1])


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def prepare(criu: Criu, cache: Path) -> None:
    """Find out what this kernel can, and keep it at `cache`, a folder in memory: each dump reads it there.

    CRIU keeps it in /run where that is in memory; a call as another user than root cannot find all of it out.
    Raises NoCriu.
    """
    cache.mkdir(mode=0o711, exist_ok=True)
    # With /run in a mount namespace of its own.
    script = 'mount --bind "$1" /run && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(cache), *criu.argv, "check"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"criu check did not end well: {error}"
        raise NoCriu(message) from error
    if done.returncode:
        said = explain(done.stdout + done.stderr) or f"code {done.returncode}"
        message = f"criu check: {said}"
        raise NoCriu(message)
    for kept in cache.glob("criu.kdat"):
        kept.chmod(0o644)


def try_out(criu: Criu) -> str:
    """Dump and restore a process; "" when it goes on, else why not. Takes about 0.2 s."""
    with tempfile.TemporaryDirectory(prefix="corral-criu-") as name:
        sleeper = subprocess.Popen(
            ["setsid", "sleep", "60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        common = ["--images-dir", name, "--shell-job", "--log-file"]
        try:
            dump = [*criu.argv, "dump", "--tree", str(sleeper.pid), *common, "dump.log"]
            restore = [*criu.argv, "restore", "--restore-detached", "--pidfile", f"{name}/pid", *common, "restore.log"]
            for what, argv in (("dump", dump), ("restore", restore)):
                done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_S, check=False)
                if what == "dump":
                    sleeper.kill()
                    sleeper.wait()
                if done.returncode:
                    log = Path(name, f"{what}.log")
                    said = explain(log.read_text(errors="replace") if log.exists() else done.stderr)
                    return f"criu {what} of a process failed: {said}"
            os.kill(int(Path(name, "pid").read_text()), 9)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return f"criu cannot be tried: {error}"
        finally:
            if sleeper.poll() is None:
                sleeper.kill()
                sleeper.wait()
    return ""


def explain(log: str) -> str:
    """The first reason in a log of CRIU, for people; "" when there is none. The log may quote a hostile box."""
    for line in log.splitlines():
        match = _ERROR.search(line)
        if match is not None and not match[1].startswith(_HARMLESS):
            return "".join(char for char in match[1] if char.isprintable())[:_LONGEST]
    return ""


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump is made of. `externals` are resources of the host that are not dumped but named."""

    pid: int
    images: Path
    freezer: Path | None
    externals: Sequence[str]
    owner: int = 0  #: as whom CRIU runs, see `needs_owner`


def dump_argv(criu: Criu, dump: Dump) -> list[str]:
    """The command that dumps a tree of processes and leaves it as it found it, standing still."""
    return [
        *criu.argv,
        "dump",
        *("--tree", str(dump.pid), "--images-dir", str(dump.images), "--log-file", "dump.log", "--verbosity=2"),
        *("--leave-running", "--manage-cgroups=ignore", "--tcp-close", "--skip-in-flight", "--network-lock", "skip"),
        *("--empty-ns", "net", "--timeout", str(SEIZE_LIMIT_S), "--ghost-limit", GHOST_LIMIT),
        *(() if dump.freezer is None else ("--freeze-cgroup", str(dump.freezer))),
        *(part for external in dump.externals for part in ("--external", external)),
        *(("--unprivileged",) if dump.owner else ()),
    ]


@dataclass(frozen=True, slots=True)
class Restore:
    """What a restore needs. `files` are descriptors by the names that the images have for them."""

    images: Path
    root: Path
    pid_file: Path
    externals: Mapping[str, str]
    files: Mapping[str, int]
    hook: str  #: a program, called at each stage


def restore_argv(criu: Criu, restore: Restore) -> list[str]:
    """The command that makes the processes again and ends while they go on."""
    return [
        *criu.argv,
        "restore",
        *("--images-dir", str(restore.images), "--root", str(restore.root), "--log-file", "restore.log"),
        *("--verbosity=2", "--restore-detached", "--pidfile", str(restore.pid_file)),
        *("--manage-cgroups=ignore", "--tcp-close", "--empty-ns", "net", "--action-script", restore.hook),
        *(part for key, path in restore.externals.items() for part in ("--external", f"mnt[{key}]:{path}")),
        *(part for name, fd in restore.files.items() for part in ("--inherit-fd", f"fd[{fd}]:{name}")),
    ]


def needs_owner(user_namespace: int) -> int:
    """As whom CRIU has to run to read the limits of the processes in a user namespace (a descriptor): 0 for root.

    Root without CAP_SYS_RESOURCE may not, but whoever made the namespace has every capability in it.
    """
    return 0 if syscalls.has_capability(syscalls.CAP_SYS_RESOURCE) else syscalls.owner_of_userns(user_namespace)
