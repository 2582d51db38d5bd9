"""Debian's packages in a tree: a new one by mmdebstrap, more of them by apt.

Owns the command lines and what their output says of progress and of failures. Must not change anything outside the
tree: apt and dpkg work there with the host's means of reaching mirrors.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from corral.core import errors
from corral.images.stock import SKELETONS, Flavour
from corral.runtime.linux import syscalls

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DPKG: Final = SKELETONS / "base/etc/dpkg/dpkg.cfg.d/corral"
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, slots=True)
class Step:
    """Where a build is. `done` of `total` packages, both 0 when the step cannot be counted."""

    text: str
    done: int = 0
    total: int = 0


Report = Callable[[Step], None]


class Progress:
    """Turns the output of mmdebstrap and apt, line by line, into steps."""

    _PHASES: Final = {
        "I: running apt-get update": "reading package lists",
        "I: downloading packages": "fetching packages of the base system",
        "I: extracting archives": "unpacking the base system",
        "I: installing essential": "setting up the base system",
        "I: installing remaining": "installing packages",
        "I: cleaning": "cleaning up",
    }
    _NEW: Final = re.compile(r"\d+ upgraded, (\d+) newly installed")

    def __init__(self, report: Report, phase: str = "") -> None:
        self._report = report
        self._phase = phase
        self._total = 0
        self._done = 0
        self._failing = ""
        self.errors: list[str] = []
        if phase:
            report(Step(phase))

    def feed(self, line: str) -> None:
        """Take one line of output."""
        for start, phase in self._PHASES.items():
            if line.startswith(start):
                self._phase, self._done, self._total = phase, 0, 0
                self._report(Step(phase))
        if found := self._NEW.search(line):
            self._total = int(found[1])
        # Each package is fetched, unpacked and set up.
        if line.startswith(("Get:", "Unpacking ", "Setting up ")):
            self._done += 1
            self._report(Step(self._phase, self._done, 3 * self._total))
        if line.startswith(("E: ", "dpkg: error")):
            self.errors.append(line.removeprefix("E: "))
        elif self._failing and line.startswith("  "):
            self.errors.append(f"{self._failing}: {line.strip()}")
        # apt tells the cause on the line after the address.
        self._failing = line.partition(" ")[2] if line.startswith("Err:") else ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run needs besides the tree: `options` are lines for apt, `scratch` a folder, `log` gets all output."""

    flavour: Flavour
    options: str
    scratch: Path
    log: Path
    report: Report

    def run(self, argv: Sequence[str], phase: str = "", **env: str) -> None:
        """Run a program, following its output. Raises Unavailable with the first cause that it names."""
        progress = Progress(self.report, phase)
        with self.log.open("a") as log:
            code = _follow(argv, log, progress, env)
        if code:
            cause = "; ".join(progress.errors[:1]) or f"{Path(argv[0]).name} ended with {code}"
            message = f"cannot build image {self.flavour.name}: {cause}"
            raise errors.Unavailable(message, remedy=f"see {self.log}, and that `apt-get update` works on this host")


def bootstrap(rootfs: Path, sources: Sequence[str], work: Work) -> None:
    """Unpack Debian with the flavour's packages at `rootfs`, which is not there yet."""
    options = work.scratch / "apt.conf"
    options.write_text(work.options + 'Acquire::Languages "none";\n')
    keyring = [f"--keyring={_KEYRING}"] if _KEYRING.exists() else []
    flavour = work.flavour
    work.run(
        [
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"),
            *keyring,
            f"--dpkgopt={_DPKG}",
            f"--aptopt={options}",
            *([f"--include={','.join(flavour.packages)}"] if flavour.packages else []),
            flavour.suite,
            str(rootfs),
            *sources,
        ]
    )


def install(rootfs: Path, work: Work) -> None:
    """Add the flavour's packages to the system at `rootfs`. The caller has a mount namespace of its own.

    The host's apt fetches, since it knows how to reach the mirrors; dpkg runs in the tree, with the tree's options.
    """
    if not work.flavour.packages:
        return
    root = str(rootfs)
    config = work.scratch / "apt.conf"
    config.write_text(
        f'{work.options}Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\n'
        f'DPkg::Chroot-Directory "{root}";\nDPkg::Use-Pty "false";\nAPT::Sandbox::User "root";\n'
        'APT::Install-Recommends "false";\n'
    )
    with _usable(rootfs):
        work.run(("apt-get", "update"), "reading package lists", APT_CONFIG=str(config))
        packages = work.flavour.packages
        work.run(("apt-get", "install", "--yes", *packages), "installing packages", APT_CONFIG=str(config))


def installed(rootfs: Path) -> dict[str, str]:
    """Name -> version of Debian's packages in the tree, read from dpkg's status file."""
    found = {}
    for stanza in (rootfs / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version): (.+)$", stanza, re.MULTILINE))
        if fields:
            found[fields["Package"]] = fields["Version"]
    return found


@contextmanager
def _usable(rootfs: Path) -> Iterator[None]:
    """What programs of packages expect below the root of a running system."""
    proc, dev = str(rootfs / "proc"), str(rootfs / "dev")
    syscalls.mount("proc", proc, "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV)
    try:
        syscalls.mount("tmpfs", dev, "tmpfs", syscalls.MS_NOSUID, "mode=0755,size=1m")
        try:
            for name in _DEVICES:
                target = rootfs / "dev" / name
                target.touch()
                syscalls.mount(f"/dev/{name}", str(target), None, syscalls.MS_BIND)
            for name, link in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
                (rootfs / "dev" / name).symlink_to(link)
            yield
        finally:
            syscalls.umount2(dev, syscalls.MNT_DETACH)
    finally:
        syscalls.umount2(proc, syscalls.MNT_DETACH)


def _follow(argv: Sequence[str], log: TextIO, progress: Progress, extra: dict[str, str]) -> int:
    """Run it to its end, following its output; kill it when the caller is interrupted."""
    # A folder of the host for temporary files need not be there in the tree.
    inherited = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    env = {**inherited, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **extra}
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as child:
        try:
            for line in child.stdout or ():
                log.write(line)
                progress.feed(line.rstrip("\n"))
        except BaseException:
            child.kill()
            raise
    return child.returncode
