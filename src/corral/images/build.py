"""Building a stock image: mmdebstrap for the packages, pip for the pinned wheels, `finish` for the rest.

Owns the order of the build, its checks of the host and its progress. Must not leave anything of a build that failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from corral.core import errors
from corral.core.clock import SystemClock
from corral.images import finish, mirrors, record, store
from corral.images.archives import layout, unpack
from corral.images.archives.model import Task
from corral.images.stock import SKELETON, Flavour
from corral.images.store import ImageStore, Stored

#: The tree, mmdebstrap's downloads beside it, and the wheels, at their largest.
SPACE_NEEDED: Final = 3 * 1024**3

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PROGRAMS: Final = ("mmdebstrap", "unshare", "setpriv", "chroot")


@dataclass(frozen=True, slots=True)
class Step:
    """Where a build is. `done` of `total` packages, both 0 when the step cannot be counted."""

    text: str
    done: int = 0
    total: int = 0


Report = Callable[[Step], None]


def build(
    images: ImageStore, flavour: Flavour, report: Report, *, force: bool = False, mirror: str | None = None
) -> Stored:
    """Build the flavour unless its current image came from the same recipe; `force` builds it anyway.

    `mirror` is the address of a Debian mirror for hosts that have none configured. Raises Unavailable, Exhausted.
    """
    recipe = flavour.recipe()
    if not force and (found := _fresh(images, flavour, recipe)):
        return found
    check_host(images.root)
    with images.building(flavour.name, lambda: report(Step("waiting for another build"))) as folder:
        # Another process may have built it while this one waited for the lock.
        if not force and (found := _fresh(images, flavour, recipe)):
            return found
        layer = folder / "layer"
        layer.mkdir()
        rootfs = layer / store.ROOTFS
        sources = mirrors.of_host(flavour.suite, mirror)
        wheels = _fetch_wheels(folder, flavour, report)
        _bootstrap(rootfs, flavour, sources, report, images.home(flavour.name) / "build.log")
        finish.finish(rootfs, flavour, wheels, sources, lambda text: report(Step(text)))
        shutil.rmtree(wheels)
        report(Step("computing the digest"))
        facts = unpack.split(rootfs, layer, Task(f"cannot build image {flavour.name}"))
        packages = installed_packages(rootfs)
        images.add_layer(layer, facts)
        now_ms = SystemClock().now_ms()
        created = record.rfc3339(datetime.fromtimestamp(now_ms / 1000, tz=UTC))
        env = [f"{name}={value}" for name, value in flavour.env.items()]
        manifest = record.Manifest(
            config=layout.config_of([facts.diff_id], created, {"Env": env}),
            layers=(facts.diff_id,),
            created_ms=now_ms,
            size=facts.size,
            files=facts.files,
            origin="built on this host",
            user=flavour.user,
            recipe=recipe,
            packages=packages,
        )
        return images.put(flavour.name, manifest)


def check_host(root: Path) -> None:
    """Raise Unavailable or Exhausted, with the remedy, unless an image can be built on this host."""
    if os.geteuid() != 0:
        message = "cannot build image: files of the image must belong to root"
        raise errors.Unavailable(message, remedy="run it as root")
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        message = f"cannot build image: no {', '.join(missing)} in PATH"
        raise errors.Unavailable(message, remedy="run make setup, or apt-get install mmdebstrap util-linux")
    if (free := store.free_space(root)) < SPACE_NEEDED:
        message = f"cannot build image: {free >> 20} MiB free for {root}, {SPACE_NEEDED >> 20} MiB are needed"
        raise errors.Exhausted(message)


def installed_packages(rootfs: Path) -> dict[str, str]:
    """Name -> version of Debian's packages in the tree, read from dpkg's status file."""
    found = {}
    for stanza in (rootfs / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version): (.+)$", stanza, re.MULTILINE))
        if fields:
            found[fields["Package"]] = fields["Version"]
    return found


class Progress:
    """Turns mmdebstrap's output, line by line, into steps."""

    _PHASES: Final = {
        "I: running apt-get update": "reading package lists",
        "I: downloading packages": "fetching packages of the base system",
        "I: extracting archives": "unpacking the base system",
        "I: installing essential": "setting up the base system",
        "I: installing remaining": "installing packages",
        "I: cleaning": "cleaning up",
    }
    _NEW: Final = re.compile(r"\d+ upgraded, (\d+) newly installed")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phase = ""
        self._total = 0
        self._done = 0
        self._failing = ""
        self.errors: list[str] = []

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


def _fresh(images: ImageStore, flavour: Flavour, recipe: str) -> Stored | None:
    found = images.current(flavour.name)
    return found if found and found.manifest.recipe == recipe else None


def _fetch_wheels(folder: Path, flavour: Flavour, report: Report) -> Path:
    """Fetch the pinned wheels with the host's own pip configuration; pip checks their hashes."""
    target = folder / "wheels"
    target.mkdir()
    pinned = [*flavour.wheels, *([flavour.node] if flavour.node else [])]
    if not pinned:
        return target
    report(Step("fetching Node.js, pip and uv"))
    listed = target / "requirements.txt"
    listed.write_text("".join(f"{wheel.requirement()}\n" for wheel in pinned))
    options = ("--require-hashes", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet")
    pip = (sys.executable, "-m", "pip", "download", *options, "--dest", str(target), "--requirement", str(listed))
    done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        message = f"cannot fetch wheels for image {flavour.name}: {cause}"
        raise errors.Unavailable(message, remedy="see that `pip download pip` works on this host")
    return target


def _bootstrap(rootfs: Path, flavour: Flavour, sources: Sequence[str], report: Report, log_file: Path) -> None:
    """Unpack Debian with the flavour's packages at `rootfs`."""
    options = rootfs.with_name("apt.conf")
    options.write_text(mirrors.acquire_options() + 'Acquire::Languages "none";\n')
    progress = Progress(report)
    with log_file.open("w") as log:
        argv = _mmdebstrap(rootfs, flavour, sources, options)
        code = _run(argv, log, progress)
    if code:
        cause = "; ".join(progress.errors[:1]) or f"mmdebstrap ended with {code}"
        message = f"cannot build image {flavour.name}: {cause}"
        raise errors.Unavailable(message, remedy=f"see {log_file}, and that `apt-get update` works on this host")
    options.unlink()


def _mmdebstrap(rootfs: Path, flavour: Flavour, sources: Iterable[str], options: Path) -> list[str]:
    keyring = [f"--keyring={_KEYRING}"] if _KEYRING.exists() else []
    return [
        # A build that is killed takes all its children along: they die with their process 1, and so do their mounts.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"),
        *keyring,
        f"--dpkgopt={SKELETON / 'etc/dpkg/dpkg.cfg.d/corral'}",
        f"--aptopt={options}",
        *([f"--include={','.join(flavour.packages)}"] if flavour.packages else []),
        flavour.suite,
        str(rootfs),
        *sources,
    ]


def _run(argv: Sequence[str], log: TextIO, progress: Progress) -> int:
    """Run mmdebstrap, following its output; kill it when the caller is interrupted."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
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
