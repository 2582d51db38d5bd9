"""Removal of layers that nothing needs, no name and no server, and of the names of servers that are gone.

Owns the decision. Must not read a server's database: what a server needs, it has written into its hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from corral.core import errors
from corral.core.clock import Clock
from corral.images import holds
from corral.images.record import Manifest
from corral.images.store import LAYERS, ROOTFS, ImageStore, alias_in, remove_tree


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: folders of layers, leftovers of killed processes, and bytes of disk that they had."""

    layers: tuple[str, ...] = ()
    leftovers: int = 0
    size: int = 0


def collect(store: ImageStore, clock: Clock) -> Collected | None:
    """Remove what nothing needs; None when somebody is adding at the moment. Blocking.

    A layer is taken out of the store at once, and its files are removed after the lock is free again; killed between
    the two, the next one removes them. Raises errors.Unavailable when it cannot be known what is needed.
    """
    with store.alone_if_free() as alone:
        if not alone:
            return None
        needed = _needed(store, clock)
        left = store.work_folders()
        doomed = [folder for folder in folders(store) if folder / ROOTFS not in needed]
        gone = [store.take_layer(folder) for folder in doomed]
    size = sum(map(_on_disk, (*gone, *left)))
    for path in (*gone, *left):
        remove_tree(path)
    return Collected(tuple(folder.name for folder in doomed), len(left), size)


def folders(store: ImageStore) -> list[Path]:
    """Folders of all layers."""
    there = store.root / LAYERS
    return sorted(there.iterdir()) if there.is_dir() else []


def _needed(store: ImageStore, clock: Clock) -> set[Path]:
    """Trees that have to stay."""
    found: set[Path] = set()
    path = store.root
    try:
        for path in holds.files(store):
            held = holds.read(path)
            if held.lapsed(clock):
                holds.end(store, held)
            else:
                found |= held.layers
        for name in store.names():
            path = store.name_file(name)
            text = path.read_text()
            if alias_in(text) is None:
                found |= {store.layer(diff_id).path for diff_id in Manifest.from_json(text).layers}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        message = f"cannot remove layers: {path} cannot be read: {problem}"
        raise errors.Unavailable(message, remedy="see: corral image fsck") from problem
    return found


def _on_disk(path: Path) -> int:
    return sum(os.lstat(f"{folder}/{name}").st_blocks * 512 for folder, _, files in os.walk(path) for name in files)
