"""Where control groups are on this host: v1, hybrid or v2, as pure functions over /proc and /sys text.

Must not change anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from corral.runtime.linux.mounts import Mount

NEEDED: Final = ("cpu", "memory", "pids")


class Mode(enum.StrEnum):
    """How the host arranges its controllers. HYBRID: those that matter are on v1, and v2 is mounted beside them."""

    V1 = "v1"
    HYBRID = "hybrid"
    V2 = "v2"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Layout:
    """The hierarchies that a box is in: on v2 the one, on v1 one folder per mounted controller."""

    mode: Mode
    controllers: Mapping[str, Path]
    #: Whether memory and swap together can be limited (on v1 a boot option of the kernel's).
    swap_limit: bool = True
    #: Where v2 is mounted beside v1.
    second: Path | None = None

    @property
    def version(self) -> int:
        """1 or 2: which files to read."""
        return 2 if self.mode is Mode.V2 else 1

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every hierarchy once."""
        return tuple(dict.fromkeys(self.controllers.values()))

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers that limits need and the host does not offer."""
        return tuple(name for name in NEEDED if name not in self.controllers)


def layout(mounts: Sequence[Mount], v2_controllers: str = "") -> Layout:
    """The layout that these mounts make. `v2_controllers` is the text of cgroup.controllers in the root of v2."""
    first: dict[str, Path] = {}
    second: Path | None = None
    for mount in mounts:
        if mount.fstype == "cgroup":
            for option in mount.super_options.split(","):
                if option not in {"rw", "ro", "xattr", "noprefix"} and not option.startswith("release_agent="):
                    first.setdefault(option, Path(mount.target))
        elif mount.fstype == "cgroup2" and second is None:
            second = Path(mount.target)
    if any(name in first for name in NEEDED):
        return Layout(Mode.V1 if second is None else Mode.HYBRID, first, second=second)
    if second is not None:
        return Layout(Mode.V2, dict.fromkeys(v2_controllers.split(), second))
    return Layout(Mode.NONE, {})


def read_layout(mounts: Sequence[Mount]) -> Layout:
    """The layout of this host."""
    for mount in mounts:
        if mount.fstype == "cgroup2":
            found = layout(mounts, (Path(mount.target) / "cgroup.controllers").read_text())
            break
    else:
        found = layout(mounts)
    if found.version == 1 and "memory" in found.controllers:
        together = found.controllers["memory"] / "memory.memsw.limit_in_bytes"
        return replace(found, swap_limit=together.exists())
    return found
