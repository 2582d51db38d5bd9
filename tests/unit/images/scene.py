"""Images whose layers are of one file each, without an archive: for what only moves and names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from corral.images import store
from corral.images.archives.model import LayerFacts
from corral.images.record import Manifest
from corral.images.store import ImageStore, Stored
from corral.runtime.contract import Layer, User


def diff_id(text: str) -> str:
    """The digest that stands for a layer with this text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def manifest(
    *layers: str, env: Mapping[str, str] | None = None, user: User | None = None, **settings: object
) -> Manifest:
    """An image of these layers."""
    listed = [f"{name}={value}" for name, value in (env or {}).items()]
    config = json.dumps({"rootfs": {"diff_ids": layers}, "config": {"Env": listed, **settings}})
    return Manifest(config, layers, 1_700_000_000_000, 3, 1, "a test", user or User())


def add_layer(images: ImageStore, work: Path, text: str, digest: str | None = None) -> Layer:
    """A layer of one file."""
    folder = work / f"layer-{text}"
    (folder / store.ROOTFS).mkdir(parents=True)
    (folder / store.ROOTFS / "file").write_text(text)
    facts = LayerFacts(digest or diff_id(text), len(text), 1, "sha256:0", "split", "sha256:0")
    return images.add_layer(folder, facts)


def pull(images: ImageStore, name: str, *texts: str) -> None:
    """As `publish`, for a build that asked for it when `ManualClock` begins."""
    with images.working() as work:
        layers = [add_layer(images, work, text) for text in texts]
        images.put_pulled(name, manifest(*(layer.digest for layer in layers)))


def publish(images: ImageStore, name: str, *texts: str, env: Mapping[str, str] | None = None) -> Stored:
    """An image of such layers, under this name."""
    with images.working() as work:
        layers = [add_layer(images, work, text) for text in texts]
        return images.put(name, manifest(*(layer.digest for layer in layers), env=env, user=User(name="me")))
