"""Which steps make a box's root filesystem. Pure: the steps are executed by the launcher's child.

The places where layers and the root are mounted are the same for every box: each mounts in a namespace of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.runtime.contract import LENT, Layer
from corral.runtime.rootfs.steps import (
    BindDisk,
    BindFile,
    BindLayer,
    BindStore,
    LendLayer,
    MakeStore,
    MakeUpper,
    MountOverlay,
    RenewWork,
    Step,
)

#: mount(2) takes one page of options; short mount points make room for this many layers.
MOST_LAYERS: Final = 100

#: A shelf has at least one folder above it: the host's root is none.
_LEAST_DEEP: Final = 3

#: Folders of a box's disk: what the box wrote, what the overlay needs while it is mounted, and the stores.
UPPER: Final = "upper"
WORK: Final = "work"
STORES: Final = "stores"


@dataclass(frozen=True, slots=True)
class Stage:
    """Empty folders that boxes mount over: `root`, one for each layer, and `groups`.

    Every id must be able to pass through `folder` and what is above it: a runtime that has joined the box's user
    namespace goes to `root` by its path.
    """

    folder: Path

    @property
    def root(self) -> Path:
        """Where the overlay goes."""
        return self.folder / "root"

    @property
    def disk(self) -> Path:
        """Where the box's disk goes."""
        return self.folder / "disk"

    @property
    def groups(self) -> Path:
        """Where the control groups of a box that is made again are shown."""
        return self.folder / "groups"

    def layer(self, number: int) -> Path:
        """Where the layer with this number goes."""
        return self.folder / str(number)

    def make(self) -> None:
        """Make the folders. Idempotent."""
        for path in (self.root, self.disk, self.groups, *(self.layer(number) for number in range(MOST_LAYERS))):
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.folder.chmod(0o711)


def root_plan(
    stage: Stage,
    layers: Sequence[Layer],
    disk: Path,
    *,
    owner: int,
    files: Mapping[str, str] | None,
    binds: Mapping[str, Path],
    stores: Sequence[str] = (),
    lent: Sequence[Layer] = (),
) -> list[Step]:
    """Steps that end with the root mounted at `stage.root`. `layers` from the lowest to the highest.

    `disk` is where the box's disk is; `owner` the host id of the box's root; `files` are the first files of the box,
    None when the disk has been a box's already; `binds` maps paths in the box to files of the host. The highest
    layer must have these paths, as ordinary files in ordinary folders: then no link in a lower layer can lead them
    elsewhere. On a used disk a link may: it is the box's own tree that it leads through. `stores` are paths of folders
    in the box that lie on the disk without the overlay. `lent` are layers that the box can look into.
    """
    if not 1 <= len(layers) <= MOST_LAYERS:
        message = f"cannot plan root filesystem: {len(layers)} layers, between 1 and {MOST_LAYERS} are possible"
        raise ValueError(message)
    below, names = _below(stage, layers)
    work = str(disk / WORK)
    lowers = tuple(reversed(names))
    overlay = MountOverlay(
        str(stage.root), str(stage.folder), lowers, f"{stage.disk.name}/{UPPER}", f"{stage.disk.name}/{WORK}", owner
    )
    inside = [BindFile(str(source), f"{stage.root}{target}") for target, source in binds.items()]
    kept = {path: f"{STORES}/{path.rpartition('/')[2]}" for path in stores}
    return [
        RenewWork(work) if files is None else MakeUpper(str(disk / UPPER), work, dict(files)),
        *(MakeStore(str(disk / name)) for name in kept.values()),
        BindDisk(str(disk), str(stage.disk)),
        *below,
        overlay,
        *inside,
        *(BindStore(str(stage.disk / name), str(stage.root), path, owner) for path, name in kept.items()),
        *(LendLayer(str(one.path), str(stage.root), _lent_at(one), one.id_base, owner) for one in lent),
    ]


def _lent_at(layer: Layer) -> str:
    return f"{LENT}/{layer.digest.rpartition(':')[2]}"


def _below(stage: Stage, layers: Sequence[Layer]) -> tuple[list[BindLayer], list[str]]:
    """Mounts of the layers, and the name of each in the stage.

    Layers that lie side by side, as those of one store do (`<shelf>/<layer>/<tree>`), come with one mount of their
    shelf: a mount each is what a box of many layers would wait for.
    """
    shelves = Counter((layer.path.parent.parent, layer.id_base) for layer in layers)
    mounts: dict[tuple[Path, int], BindLayer] = {}
    names: list[str] = []
    for layer in layers:
        shelf = (layer.path.parent.parent, layer.id_base)
        shared = shelves[shelf] > 1 and len(layer.path.parents) > _LEAST_DEEP
        source = shelf if shared else (layer.path, layer.id_base)
        if source not in mounts:
            mounts[source] = BindLayer(str(source[0]), str(stage.layer(len(mounts))), layer.id_base)
        place = Path(mounts[source].target).name
        names.append(f"{place}/{layer.path.relative_to(shelf[0])}" if shared else place)
    return list(mounts.values()), names
