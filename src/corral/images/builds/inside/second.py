"""A second store for buildah, of images whose layers this devbox was lent.

Owns its form, which is that of containers/storage: the library under buildah and skopeo looks for images and layers in
additional stores that it does not write to. Nothing of a layer is copied or unpacked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Names of our own: registries' hosts have no such ending.
OWN = "corral.invalid/base"

#: Where it is. Made for each build.
SECOND = Path("/var/lib/containers/corral-lent")
STORE = Path("/var/lib/containers/storage")
STORAGE = Path("/etc/containers/storage.conf")
IMAGES = "overlay-images/images.json"
LONG_AGO = "1970-01-01T00:00:00Z"


def environment() -> dict[str, str]:
    """Variables of every program: they look into the second store, too."""
    conf = SECOND.with_suffix(".conf")
    return {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf)} if conf.exists() else dict(os.environ)


def full_name(name: str) -> str:
    """A name as the store has it. One without a registry is of this host, as `buildah tag` would have it."""
    host, slash, _ = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        name = f"localhost/{name}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def lay(bases: Sequence[Mapping[str, Any]], lent: Path) -> set[str]:
    """Make the second store, of images whose layers are folders of `lent`; the ids of the layers in it.

    It has the form in which the library of buildah and skopeo shares images between stores, and its ids are those that
    this library gives. Nobody reads an archive of these layers, so that there is none.
    """
    shutil.rmtree(SECOND, ignore_errors=True)
    images: list[dict[str, Any]] = []
    layers: dict[str, dict[str, Any]] = {}
    for kind in ("overlay/l", "overlay-layers", "overlay-images", "overlay-containers"):
        (SECOND / kind).mkdir(parents=True)
    for base in bases:
        parent = ""
        links: list[str] = []
        for digest in base["layers"]:
            chain = _digest(f"sha256:{parent} sha256:{digest}".encode()) if parent else digest
            if chain not in layers:
                layers[chain] = _lay_layer(chain, parent, lent / digest, links)
            links.insert(0, f"l/{_link(chain)}")
            parent = chain
        images.append(_lay_image(base, parent))
    (SECOND / "overlay-layers/layers.json").write_text(json.dumps(list(layers.values())))
    (SECOND / IMAGES).write_text(json.dumps(images))
    for name in ("overlay-layers/layers.lock", "overlay-images/images.lock", "overlay-containers/containers.lock"):
        (SECOND / name).touch()
    also = f'\n[storage.options]\nadditionalimagestores = ["{SECOND}"]\n'
    SECOND.with_suffix(".conf").write_text(STORAGE.read_text() + also)
    return set(layers)


def _lay_layer(chain: str, parent: str, tree: Path, links: Sequence[str]) -> dict[str, Any]:
    folder = SECOND / "overlay" / chain
    folder.mkdir()
    (folder / "diff").symlink_to(tree)
    (folder / "link").write_text(_link(chain))
    (SECOND / "overlay/l" / _link(chain)).symlink_to(f"../{chain}/diff")
    if links:
        (folder / "lower").write_text(":".join(links))
    digest = f"sha256:{tree.name}"
    facts = {"id": chain, "created": LONG_AGO, "compressed-diff-digest": digest, "compressed-size": 0}
    return {**facts, "diff-digest": digest, "diff-size": 0, **({"parent": parent} if parent else {})}


def _lay_image(base: Mapping[str, Any], top: str) -> dict[str, Any]:
    config = base["config"].encode()
    digest = _digest(config)
    described = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 0}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{digest}",
            "size": len(config),
        },
        "layers": [{**described, "digest": f"sha256:{layer}"} for layer in base["layers"]],
    }
    text = json.dumps(manifest).encode()
    blobs = {"manifest": text, f"manifest-sha256:{_digest(text)}": text, f"sha256:{digest}": config}
    folder = SECOND / "overlay-images" / digest
    folder.mkdir(exist_ok=True)
    for key, content in blobs.items():
        name = key if key.isalpha() else f"={base64.b64encode(key.encode()).decode()}"
        (folder / name).write_bytes(content)
    return {
        "id": digest,
        "digest": f"sha256:{_digest(text)}",
        "names": [f"{OWN}/{base['id']}:latest", *dict.fromkeys(map(full_name, base["names"]))],
        "layer": top,
        "metadata": "{}",
        "big-data-names": list(blobs),
        "big-data-sizes": {key: len(content) for key, content in blobs.items()},
        "big-data-digests": {key: f"sha256:{_digest(content)}" for key, content in blobs.items()},
        "created": LONG_AGO,
    }


def require_parents(lent: set[str]) -> None:
    """Raise ValueError if a layer or image of this disk is on one that is neither here nor lent: its base is gone."""
    layers = _stored("overlay-layers/layers.json")
    here = lent | {layer["id"] for layer in layers}
    wanted = [layer.get("parent") for layer in layers] + [image.get("layer") for image in _stored(IMAGES)]
    if lost := [layer for layer in wanted if layer and layer not in here]:
        raise ValueError(f"{len(lost)} of its layers and images are on a base that is not here any more")


def hidden(bases: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Ids of lent images that are on this disk, too, each with a name that it must get there.

    A Dockerfile without a step makes its base again, under the id that it has. The image of this disk goes before the
    one that is lent, whose names are not found any more then.
    """
    here = {image["id"] for image in _stored(IMAGES)}
    named = ((_digest(base["config"].encode()), name) for base in bases for name in base["names"])
    return [(image, full_name(name)) for image, name in named if image in here]


def taken_names(names: set[str]) -> list[str]:
    """Those of the names that something on this disk has, which would go before what is lent."""
    return [name for image in _stored(IMAGES) for name in image.get("names") or () if name in names]


def _stored(path: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((STORE / path).read_text())
    except FileNotFoundError:
        return []
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _link(chain: str) -> str:
    """A short name for a layer: always the same one, as layers on this disk keep it."""
    return base64.b32encode(hashlib.sha256(chain.encode()).digest()).decode()[:26]
