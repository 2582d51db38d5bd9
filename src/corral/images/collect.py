"""Removal of layers that nothing needs, no name and no server, and of names that nobody asks for any more.

These are what servers that are gone named, and what was pulled for builds.

Owns the decision. Must not read a server's database: what a server needs, it has written into its hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from corral.core import errors
from corral.core.clock import Clock
from corral.images import holds, names
from corral.images.store import LAYERS, ROOTFS, ImageStore, Stored, remove_tree


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: folders of layers, leftovers of killed processes, bytes of disk that they had, and names of
    images that had been pulled for builds.
    """

    layers: tuple[str, ...] = ()
    leftovers: int = 0
    size: int = 0
    names: tuple[str, ...] = ()


def collect(store: ImageStore, clock: Clock, keep_s: float | None = None) -> Collected | None:
    """Remove what nothing needs; None when somebody is adding at the moment. Blocking.

    What was pulled for builds is not needed when none has asked for it for `keep_s` seconds, unless that is None.
    A layer is taken out of the store at once, and its files are removed after the lock is free again; killed between
    the two, the next one removes them. Raises errors.Unavailable when it cannot be known what is needed.
    """
    with store.alone_if_free() as alone:
        if not alone:
            return None
        needed, lapsed = _needed(store, clock, keep_s)
        # A name goes before its layers: killed in between, it does not stand for what is not there.
        for name in lapsed:
            store.drop(name)
        left = store.work_folders()
        doomed = [folder for folder in folders(store) if folder / ROOTFS not in needed]
        gone = [store.take_layer(folder) for folder in doomed]
    size = sum(map(_on_disk, (*gone, *left)))
    for path in (*gone, *left):
        remove_tree(path)
    return Collected(tuple(folder.name for folder in doomed), len(left), size, tuple(lapsed))


def folders(store: ImageStore) -> list[Path]:
    """Folders of all layers."""
    there = store.root / LAYERS
    return sorted(there.iterdir()) if there.is_dir() else []


def _needed(store: ImageStore, clock: Clock, keep_s: float | None) -> tuple[set[Path], list[str]]:
    """Trees that have to stay, and names that have not."""
    found: set[Path] = set()
    images: dict[str, Stored] = {}
    stood_for: set[str] = set()
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
            if (target := store.target(name)) is not None:
                stood_for |= set(names.candidates(target))
            elif (stored := store.current(name)) is not None:
                images[name] = stored
    except (OSError, ValueError, KeyError, TypeError, errors.Invalid) as problem:
        message = f"cannot remove layers: {path} cannot be read: {problem}"
        raise errors.Unavailable(message, remedy="see: corral image fsck") from problem
    since_ms = None if keep_s is None else clock.now_ms() - keep_s * 1000
    lapsed = [name for name in images if name not in stood_for and _lapsed(images[name], since_ms)]
    found |= {layer.path for name, stored in images.items() if name not in lapsed for layer in stored.layers}
    return found, lapsed


def _lapsed(stored: Stored, since_ms: float | None) -> bool:
    return since_ms is not None and stored.asked_ms is not None and stored.asked_ms < since_ms


def _on_disk(path: Path) -> int:
    return sum(os.lstat(f"{folder}/{name}").st_blocks * 512 for folder, _, files in os.walk(path) for name in files)
