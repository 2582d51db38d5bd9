"""Images taken in: from an OCI layout, or from the tar of a root filesystem, to layers and a name of the store.

Owns the order: layers first, each published when it is whole, the name last. Blocking; runs in a thread.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from corral.core.clock import Clock
from corral.images import record
from corral.images.archives import layout, unpack
from corral.images.archives.layout import LayoutLayer
from corral.images.archives.model import LayerFacts, Task
from corral.images.archives.unpack import Blob
from corral.images.record import Manifest
from corral.images.store import ImageStore
from corral.runtime.contract import User

_ROOT: Final = User("root", 0, 0, "/root")
_LARGEST_PASSWD: Final = 1 << 20
_UID: Final = re.compile(r"[0-9]{1,9}")


def take_layout(
    store: ImageStore,
    work: Path,
    folder: Path,
    reference: str,
    name: str,
    origin: str,
    clock: Clock,
    task: Task,
    *,
    fetched: bool = False,
    pulled: bool = False,
) -> None:
    """Make the layout's image one of the store, as `name`. `work` is a folder of the store to work in.

    Blobs of a layout that was `fetched` are what their names say: whoever fetched it has seen to that.
    One that is `pulled` for a build goes by itself, and takes the name from nobody.
    """
    found = layout.read(folder, reference, task)
    facts = [
        _layer(store, work, layer, f"layer {at + 1} of {len(found.layers)}", task, fetched=fetched)
        for at, layer in enumerate(found.layers)
    ]
    named = _named(store, found.config, facts, origin, clock, task)
    if pulled:
        store.put_pulled(name, named)
    else:
        store.put(name, named)


def take_tar(store: ImageStore, work: Path, path: Path, name: str, clock: Clock, task: Task) -> None:
    """Make the tar of a root filesystem an image of one layer, as `name`."""
    folder = work / "layer-0"
    folder.mkdir()
    facts = unpack.unpack(Blob(path), folder, path.name, task)
    if not facts.files or not (folder / unpack.TREE).is_dir():
        raise task.invalid("it is empty")
    store.add_layer(folder, facts)
    created = record.rfc3339(datetime.fromtimestamp(clock.now_ms() / 1000, tz=UTC))
    config = layout.config_of([facts.diff_id], created, {})
    store.put(name, _named(store, config, [facts], str(path), clock, task))


def take_layer(store: ImageStore, work: Path, blob: Path, diff_id: str, task: Task) -> None:
    """Make a layer of its archive, compressed or not, though no image of this host has it."""
    _layer(store, work, LayoutLayer(diff_id, blob), "layer", task)


def _layer(
    store: ImageStore, work: Path, layer: LayoutLayer, where: str, task: Task, *, fetched: bool = False
) -> LayerFacts:
    """The layer, made of its blob unless it is there. Who knows a layer's digest may use it."""
    task.check()
    known = store.facts(layer.diff_id)
    if known is not None:
        return known
    folder = work / layer.diff_id.removeprefix("sha256:")
    folder.mkdir()
    facts = unpack.unpack(Blob(layer.blob, layer.diff_id), folder, where, task)
    if fetched:
        facts = replace(facts, blob=f"sha256:{layer.blob.name}")
    store.add_layer(folder, facts)
    return facts


def _named(
    store: ImageStore, config: str, facts: Sequence[LayerFacts], origin: str, clock: Clock, task: Task
) -> Manifest:
    """What a name's file is to say."""
    if not facts:
        raise task.invalid("it has no layers")
    manifest = Manifest(
        config=config,
        layers=tuple(layer.diff_id for layer in facts),
        created_ms=clock.now_ms(),
        size=sum(layer.size for layer in facts),
        files=sum(layer.files for layer in facts),
        origin=origin,
        user=_ROOT,
    )
    return record.with_user(manifest, user_of(str(manifest.settings.get("User") or ""), _trees(store, manifest)))


def _trees(store: ImageStore, manifest: Manifest) -> list[Path]:
    return [store.layer(diff_id).path for diff_id in manifest.layers]


def user_of(text: str, trees: Sequence[Path]) -> User:
    """Who `USER` of a configuration is: a name or a number, with a group or without, by the image's own passwd."""
    who, _, group = text.partition(":")
    if not who:
        return _ROOT
    entries = [line.split(":") for line in _file(trees, "passwd").splitlines()]
    known = next((e for e in entries if len(e) >= 7 and who in {e[0], e[2]} and _UID.fullmatch(e[2])), None)
    uid = int(known[2]) if known else int(who) if _UID.fullmatch(who) else 0
    gid = int(known[3]) if known and _UID.fullmatch(known[3]) else 0
    if _UID.fullmatch(group):
        gid = int(group)
    elif group:
        groups = [line.split(":") for line in _file(trees, "group").splitlines()]
        gid = next((int(g[2]) for g in groups if len(g) >= 3 and g[0] == group and _UID.fullmatch(g[2])), gid)
    name, home = (known[0], known[5]) if known else ("root" if uid == 0 else who, "/root" if uid == 0 else "/")
    return User(name, uid, gid, home if home.startswith("/") else "/")


def _file(trees: Sequence[Path], name: str) -> str:
    """/etc/<name> as the highest layer that has it says; "" when none does. No link of the image is followed."""
    for tree in reversed(trees):
        etc = tree / "etc"
        if not etc.is_dir() or etc.is_symlink():
            continue
        path = etc / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return ""
            with layout.opened(path) as file:
                return file.read(_LARGEST_PASSWD).decode(errors="replace")
        except FileNotFoundError:
            continue
    return ""
