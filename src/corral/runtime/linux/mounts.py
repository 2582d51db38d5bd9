"""What is mounted in this mount namespace, read from /proc/self/mountinfo, and dropping what is not needed.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.runtime.linux import syscalls

#: Filesystems that no box needs to start from. Each mount left costs a copy for every box.
DISPENSABLE: Final = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "configfs",
        "debugfs",
        "devpts",
        "efivarfs",
        "fuse.gvfsd-fuse",
        "fuse.lxcfs",
        "fuse.portal",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "overlay",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "squashfs",
        "sysfs",
        "tracefs",
    ]
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `root` is the mount's path inside its filesystem."""

    root: str
    target: str
    options: str
    fstype: str
    source: str
    super_options: str


def parse(text: str) -> list[Mount]:
    """The mounts of a mountinfo file, in its order."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        found.append(Mount(_plain(fields[3]), _plain(fields[4]), fields[5], rest[0], _plain(rest[1]), rest[2]))
    return found


def current() -> list[Mount]:
    """The mounts that this process sees."""
    return parse(Path("/proc/self/mountinfo").read_text())


def mounted_at(path: Path) -> Mount | None:
    """The topmost mount at exactly this path."""
    return next((mount for mount in reversed(current()) if mount.target == str(path)), None)


def holding(path: Path) -> Mount | None:
    """The mount that a path is on."""
    resolved = path.resolve()
    best: Mount | None = None
    for mount in current():
        if resolved.is_relative_to(mount.target) and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def unneeded(found: Sequence[Mount], keep: Iterable[str]) -> list[str]:
    """Targets to unmount, the last mounted first: dispensable ones.

    A mount that holds, or lies under, a path of `keep` stays; so do /proc and /sys themselves.
    """
    stay = tuple(keep)
    targets = []
    for mount in reversed(found):
        # Images, disk pools of other data folders among them: a copy here would keep them from being unmounted.
        image = mount.source.startswith("/dev/loop")
        extra = (mount.fstype in DISPENSABLE or image) and mount.target not in {"/", "/proc", "/sys"}
        if extra and not any(_related(mount.target, path) for path in stay):
            targets.append(mount.target)
    return targets


def drop_unneeded(keep: Iterable[str]) -> None:
    """Unmount what `unneeded` names. The namespace must be this process's own."""
    for target in unneeded(current(), keep):
        try:
            syscalls.umount2(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError:
            continue


def _related(target: str, path: str) -> bool:
    inside = target.rstrip("/") + "/"
    return path == target or path.startswith(inside) or target.startswith(path.rstrip("/") + "/")


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
