"""The tree of a stock image, made by a process in mount and pid namespaces of its own: `build` starts it.

Owns the mounts that a layer is made under, and what it tells its parent: a line of JSON for each step, then one with
what was made or why not. Must not write outside the folder that it was given.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core import errors
from corral.images import finish, packages, store
from corral.images.packages import Step
from corral.images.stock import Flavour
from corral.runtime.linux import mounts, syscalls

JOB: Final = "job.json"
_MERGED: Final = "merged"
_WORK: Final = "work"
#: As boxes mount it (`runtime.rootfs`): no marks that only the mount which made them understands.
_OVERLAY: Final = "metacopy=off,redirect_dir=off,index=off,xino=off,volatile"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be made. `lowers` are the layers below, from the lowest; `options` lines for apt."""

    flavour: Flavour
    lowers: tuple[str, ...]
    sources: tuple[str, ...]
    options: str
    wheels: str
    log: str

    def pack(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Job:
        """The job that `pack` made this from."""
        lists = {name: tuple(packed[name]) for name in ("lowers", "sources")}
        return cls(**{**packed, **lists, "flavour": Flavour.unpack(packed["flavour"])})


def assemble(folder: Path, job: Job) -> dict[str, str]:
    """Make `folder/tree`. Returns the packages of it and the layers below. The caller's mount namespace is its own."""
    made = folder / store.ROOTFS
    log = Path(job.log)
    log.write_text("")
    work = packages.Work(job.flavour, job.options, folder, log, _tell)
    if job.lowers:
        tree = _mount(folder, made, job.lowers)
        packages.install(tree, work)
        _finish(tree, job)
        listed = packages.installed(tree)
        syscalls.umount2(str(tree), 0)
        tree.rmdir()
        shutil.rmtree(folder / _WORK)
        finish.tidy_layer(made)
    else:
        packages.bootstrap(made, job.sources, work)
        _finish(made, job)
        listed = packages.installed(made)
        finish.tidy(made)
    (folder / "apt.conf").unlink(missing_ok=True)
    (folder / JOB).unlink()
    return listed


def main() -> int:
    """Carry out the job in the folder that the first argument names."""
    folder = Path(sys.argv[1])
    try:
        job = Job.unpack(json.loads((folder / JOB).read_text()))
        # A copy of a server's mounts here would keep its disks from being unmounted until the image is made.
        mounts.drop_unneeded([sys.argv[1], job.log, job.wheels, *job.lowers])
        listed = assemble(folder, job)
    except errors.CorralError as problem:
        _say({"refused": problem.message})
        return 1
    _say({"made": listed})
    return 0


def _mount(folder: Path, upper: Path, lowers: tuple[str, ...]) -> Path:
    """The layers below with an empty one on top."""
    merged, work = folder / _MERGED, folder / _WORK
    for path in (upper, work, merged):
        path.mkdir(mode=0o755)
    data = f"lowerdir={':'.join(reversed(lowers))},upperdir={upper},workdir={work},{_OVERLAY}"
    syscalls.mount("overlay", str(merged), "overlay", 0, data)
    return merged


def _finish(tree: Path, job: Job) -> None:
    finish.finish(tree, job.flavour, Path(job.wheels), job.sources, lambda text: _tell(Step(text)))


def _tell(step: Step) -> None:
    _say({"step": [step.text, step.done, step.total]})


def _say(fact: object) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
