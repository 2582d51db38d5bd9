"""Building a stock image: what it is built on, its wheels, and the assembly of its tree in namespaces of its own.

Owns the order of the build and its checks of the host. Must not leave anything of a build that failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.core.clock import SystemClock
from corral.images import assembly, mirrors, record, stock, store
from corral.images.archives import layout, unpack
from corral.images.archives.model import LayerFacts, Task
from corral.images.packages import Report, Step
from corral.images.stock import Flavour
from corral.images.store import ImageStore, Stored

#: The tree, apt's downloads beside it, and the wheels, at their largest.
SPACE_NEEDED: Final = 3 * 1024**3

_PROGRAMS: Final = ("mmdebstrap", "unshare", "setpriv", "chroot")


def build(
    images: ImageStore, flavour: Flavour, report: Report, *, force: bool = False, mirror: str | None = None
) -> Stored:
    """Build the flavour, after the one that it is a layer on, unless its current image came from the same recipe.

    `force` builds it anyway, on the base that is there. `mirror` is the address of a Debian mirror for hosts that have
    none configured. Raises Unavailable, Exhausted.
    """
    if not force and (found := fresh(images, flavour)):
        return found
    check_host(images.root)
    if flavour.base is not None:
        below = stock.flavour(flavour.base)
        build(images, below, lambda step: report(_of(below, step)), mirror=mirror)
    with images.building(flavour.name, lambda: report(Step("waiting for another build"))) as folder:
        # Another process may have built it while this one waited for the lock.
        if not force and (found := fresh(images, flavour)):
            return found
        # Looked up only now: nothing is collected while somebody builds.
        base = images.current(flavour.base) if flavour.base else None
        layer = folder / "layer"
        layer.mkdir()
        packages = _assemble(layer, flavour, base, _Around(mirror, images.home(flavour.name) / "build.log", report))
        report(Step("computing the digest"))
        facts = unpack.split(layer / store.ROOTFS, layer, Task(f"cannot build image {flavour.name}"))
        images.add_layer(layer, facts)
        return images.put(flavour.name, _manifest(flavour, facts, packages, base))


def fresh(images: ImageStore, flavour: Flavour) -> Stored | None:
    """The image of this flavour that came from the same recipe; None when it has to be built."""
    found = images.current(flavour.name)
    return found if found and found.manifest.recipe == flavour.recipe() else None


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


def _of(flavour: Flavour, step: Step) -> Step:
    return Step(f"{flavour.name}: {step.text}" if ": " not in step.text else step.text, step.done, step.total)


def _manifest(
    flavour: Flavour, facts: LayerFacts, packages: Mapping[str, str], base: Stored | None
) -> record.Manifest:
    """What is to be known of the image whose highest layer has these facts."""
    now_ms = SystemClock().now_ms()
    created = record.rfc3339(datetime.fromtimestamp(now_ms / 1000, tz=UTC))
    env = [f"{name}={value}" for name, value in flavour.env.items()]
    layers = (*(base.manifest.layers if base else ()), facts.diff_id)
    return record.Manifest(
        config=layout.config_of(layers, created, {"Env": env}),
        layers=layers,
        created_ms=now_ms,
        size=facts.size + (base.manifest.size if base else 0),
        files=facts.files + (base.manifest.files if base else 0),
        origin="built on this host",
        user=flavour.user,
        recipe=flavour.recipe(),
        packages=packages,
    )


@dataclass(frozen=True, slots=True)
class _Around:
    mirror: str | None
    log: Path
    report: Report


def _assemble(folder: Path, flavour: Flavour, base: Stored | None, around: _Around) -> dict[str, str]:
    """Make the flavour's tree, or its layer on `base`, in `folder`. Returns the packages of all of it."""
    sources = mirrors.of_host(flavour.suite, around.mirror)
    wheels = _fetch_wheels(folder, flavour, around.report)
    job = assembly.Job(
        flavour=flavour,
        lowers=tuple(str(layer.path) for layer in base.layers) if base else (),
        sources=tuple(sources),
        options=mirrors.acquire_options(),
        wheels=str(wheels),
        log=str(around.log),
    )
    packages = _run_apart(folder, job, around.report)
    shutil.rmtree(wheels)
    return packages


def _run_apart(folder: Path, job: assembly.Job, report: Report) -> dict[str, str]:
    """Run the assembly in namespaces of its own, and pass on what it tells."""
    (folder / assembly.JOB).write_text(json.dumps(job.pack()))
    argv = [
        # A build that is killed takes all its children along: they die with their process 1, and so do their mounts.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *(sys.executable, "-m", assembly.__name__, str(folder)),
    ]
    packages: dict[str, str] | None = None
    refusal: errors.CorralError = errors.Internal(f"cannot build image {job.flavour.name}: its assembly was killed")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        try:
            for line in child.stdout or ():
                match json.loads(line):
                    case {"step": [text, done, total]}:
                        report(Step(text, done, total))
                    case {"made": listed}:
                        packages = listed
                    case {"refused": message}:
                        refusal = errors.Unavailable(message)
        except BaseException:
            child.kill()
            raise
    if child.returncode or packages is None:
        raise refusal
    return packages


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
