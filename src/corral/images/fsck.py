"""Whether the store is what it says: every layer re-read against its digest, every name and hold against the layers.

Owns the findings and what `repair` removes: leftovers, layers that are broken and that no server needs, and names that
stand for nothing. Must not mend a layer: only its archive could, and that is elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.images import collect, holds, stock
from corral.images.archives import tree, unpack
from corral.images.archives.model import LayerFacts, Limits, Task
from corral.images.record import Manifest
from corral.images.store import (
    FACTS,
    FOLDERS,
    HOLDS,
    LOCK,
    NAMES,
    ROOTFS,
    SHORT,
    ImageStore,
    alias_in,
    remove_tree,
)

_WHAT: Final = "cannot check"


class Kind(enum.StrEnum):
    """What is wrong."""

    LEFTOVER = "leftover"  #: of a process that was killed
    BROKEN = "broken layer"
    DANGLING = "dangling name"
    LOST = "lost layer"  #: a server needs it, and it is not there
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"  #: nothing of ours


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or was: `mended` says whether it is no more."""

    kind: Kind
    path: Path
    cause: str
    mended: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what was found."""

    layers: int
    names: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return all(finding.mended for finding in self.findings)


def check(store: ImageStore, *, repair: bool, report: Callable[[str], None] = lambda _: None) -> Checked:
    """Look at everything, reading each layer once. Blocking. `report` is told what is being looked at.

    A running server and imports may go on meanwhile. Raises errors.Unavailable when a repair meets an import.
    """
    found = list(_leftovers(store, repair=repair))
    with store.sharing():
        broken = dict(_broken_layers(store, report))
        held, unreadable = _holds(store)
        found += unreadable
        found += [Finding(Kind.LOST, path, f"data folder {data} needs it") for path, data in _lost(held, broken)]
    layers = len(collect.folders(store))
    needed = {path for _, paths in held for path in paths}
    found += _judge_layers(store, broken, needed, repair=repair)
    found += _names(store, broken, repair=repair)
    found += _strangers(store)
    return Checked(layers, len(store.names()), tuple(found))


def _leftovers(store: ImageStore, *, repair: bool) -> Iterator[Finding]:
    """What the killed left; nothing can be told from work in progress while there is some."""
    with store.alone_if_free() as alone:
        left = [*store.work_folders(), *_half_written(store)] if alone else []
        if repair:
            for path in left:
                remove_tree(path)
    yield from (Finding(Kind.LEFTOVER, path, "a process that made it was killed", repair) for path in left)


def _half_written(store: ImageStore) -> list[Path]:
    return [path for name in (NAMES, HOLDS) for path in (store.root / name).glob(".*")]


def _broken_layers(store: ImageStore, report: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    for folder in collect.folders(store):
        report(f"reading layer {folder.name}")
        if cause := _wrong_with(folder):
            yield folder, cause


def _wrong_with(folder: Path) -> str:
    """Why the layer is not what its name says; "" when it is."""
    try:
        facts = LayerFacts.from_json((folder / FACTS).read_text())
    except (OSError, ValueError, TypeError) as problem:
        return f"{FACTS} cannot be read: {problem}"
    if facts.diff_id.removeprefix("sha256:")[:SHORT] != folder.name:
        return f"it is {facts.diff_id}"
    task = Task(_WHAT, Limits())
    try:
        if tree.survey(folder / ROOTFS, "its tree", task).surface != facts.surface:
            return "names, owners, modes, times or sizes in its tree are not what they were"
        found = unpack.digest_of(folder, facts.tar, task)
    except (OSError, errors.CorralError) as problem:
        return f"it cannot be read: {problem}"
    if found != facts.diff_id:
        return f"its content is not what it was: its archive has the digest {found or 'of nothing'}"
    return ""


def _holds(store: ImageStore) -> tuple[list[tuple[Path, frozenset[Path]]], list[Finding]]:
    """(data folder, trees) of each hold, and those that cannot be read."""
    held: list[tuple[Path, frozenset[Path]]] = []
    wrong: list[Finding] = []
    for path in holds.files(store):
        try:
            found = holds.read(path)
            held.append((found.data, found.layers))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            wrong.append(Finding(Kind.UNREADABLE, path, f"it cannot be read: {problem}"))
    return held, wrong


def _lost(held: list[tuple[Path, frozenset[Path]]], broken: dict[Path, str]) -> Iterator[tuple[Path, Path]]:
    for data, paths in held:
        yield from ((path, data) for path in sorted(paths) if not path.is_dir() and path.parent not in broken)


def _judge_layers(store: ImageStore, broken: dict[Path, str], needed: set[Path], *, repair: bool) -> Iterator[Finding]:
    gone: list[Path] = []
    if repair and any(folder / ROOTFS not in needed for folder in broken):
        with store.alone_if_free() as alone:
            if not alone:
                message = "cannot repair: somebody is adding images"
                raise errors.Unavailable(message, remedy="try again when that has ended")
            gone = [folder for folder in broken if folder / ROOTFS not in needed]
            taken = [store.take_layer(folder) for folder in gone]
        for path in taken:
            remove_tree(path)
    for folder, cause in broken.items():
        yield Finding(Kind.BROKEN, folder, cause, folder in gone)


def _names(store: ImageStore, broken: dict[Path, str], *, repair: bool) -> Iterator[Finding]:
    for name in store.names():
        path = store.name_file(name)
        cause = _wrong_with_name(store, name, broken)
        if cause:
            yield Finding(Kind.DANGLING, path, cause, repair and store.drop(name))


def _wrong_with_name(store: ImageStore, name: str, broken: dict[Path, str]) -> str:
    try:
        text = store.name_file(name).read_text()
        target = alias_in(text)
        if target is not None:
            meant = (name, stock.flavour_of(target) or target)
            return "" if any(map(store.current, meant)) else f"{name}: there is no {target}"
        layers = Manifest.from_json(text).layers
    except (OSError, ValueError, KeyError, TypeError) as problem:
        return f"{name}: it cannot be read: {problem}"
    for diff_id in layers:
        folder = store.layer_folder(diff_id)
        if not folder.is_dir() or folder in broken:
            return f"{name}: its layer {diff_id} is {'broken' if folder.is_dir() else 'not there'}"
    return ""


def _strangers(store: ImageStore) -> Iterator[Finding]:
    known = {*FOLDERS, LOCK}
    if store.root.is_dir():
        yield from (
            Finding(Kind.UNKNOWN, path, "nothing of this store; another version's, perhaps")
            for path in sorted(store.root.iterdir())
            if path.name not in known
        )
