"""OCI image layouts: a folder with `oci-layout`, `index.json` and blobs named by their digests.

Owns which of its files mean what, read and written. A layout that comes in is hostile: every file but a layer is
small and checked against its digest; layers are checked where they are unpacked. Must not unpack anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from corral.images.archives.model import Task

MARKER: Final = "oci-layout"
INDEX: Final = "index.json"
NAME: Final = "org.opencontainers.image.ref.name"

_VERSION: Final = {"imageLayoutVersion": "1.0.0"}
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_INDEXES: Final = frozenset(
    ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
)
#: Manifests and configurations are a few kilobytes.
_LARGEST: Final = 4 << 20
#: An index may list one for each architecture, and no more than that.
_DEEPEST: Final = 2
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class LayoutLayer:
    """A layer of a layout: digest of its archive, and the file that has it, compressed or not."""

    diff_id: str
    blob: Path


@dataclass(frozen=True, slots=True)
class LayoutImage:
    """An image of a layout: the text of its configuration, and its layers from the lowest to the highest."""

    config: str
    layers: tuple[LayoutLayer, ...]


def architecture() -> str:
    """This machine's, in the words of OCI."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def read(layout: Path, reference: str | None, task: Task) -> LayoutImage:
    """The image of this name in the layout; any name when it has but one. Raises errors.Invalid."""
    index = _parsed(_small(layout / INDEX, INDEX, task), INDEX, task)
    manifest = _manifest(layout, index, reference, task)
    config_digest = _descriptor(manifest.get("config"), "the configuration", task)
    text = _blob(layout, config_digest, task)
    root = _parsed(text, "the configuration", task).get("rootfs")
    diff_ids = [str(digest) for digest in _list(root, "diff_ids", task)]
    listed = [_descriptor(layer, "a layer", task) for layer in _list(manifest, "layers", task)]
    if len(diff_ids) != len(listed) or not all(map(_DIGEST.fullmatch, diff_ids)):
        raise task.invalid(f"its configuration has {len(diff_ids)} digests for {len(listed)} layers")
    if len(listed) > task.limits.layers:
        raise task.invalid(f"it has {len(listed)} layers; at most {task.limits.layers} are possible")
    layers = tuple(LayoutLayer(*pair) for pair in zip(diff_ids, (blob_path(layout, d) for d in listed), strict=True))
    return LayoutImage(text, layers)


def write(layout: Path, reference: str, config: str, layers: Sequence[tuple[str, int]]) -> None:
    """Make the layout's own files: `layers` are (diff id, bytes) of archives that are among its blobs, uncompressed.

    Other images of the layout stay.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _put(blobs, config.encode(), _CONFIG),
        "layers": [{"mediaType": _LAYER, "digest": digest, "size": size} for digest, size in layers],
    }
    entry = _put(blobs, json.dumps(manifest, sort_keys=True).encode(), _MANIFEST)
    entry |= {"annotations": {NAME: reference}, "platform": {"architecture": architecture(), "os": "linux"}}
    there = layout / INDEX
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if there.exists():
        index = json.loads(there.read_text())
    others = [other for other in index["manifests"] if other.get("annotations", {}).get(NAME) != reference]
    index["manifests"] = [*others, entry]
    _replace(layout / MARKER, json.dumps(_VERSION).encode())
    _replace(there, json.dumps(index, sort_keys=True).encode())


def blob_path(layout: Path, digest: str) -> Path:
    """Where a layout has the blob with this digest."""
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


def config_of(diff_ids: Sequence[str], created: str, config: Mapping[str, object]) -> str:
    """The text of a configuration for layers that had none."""
    facts = {
        "architecture": architecture(),
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return json.dumps(facts, sort_keys=True)


def _manifest(
    layout: Path, index: Mapping[str, Any], reference: str | None, task: Task, depth: int = 0
) -> Mapping[str, Any]:
    entries = index.get("manifests")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise task.invalid(f"{INDEX} lists no images")
    named = [entry for entry in entries if reference and (entry.get("annotations") or {}).get(NAME) == reference]
    chosen = _of_this_machine(named or entries)
    if len(chosen) != 1:
        names = ", ".join(str((entry.get("annotations") or {}).get(NAME, "without a name")) for entry in entries[:10])
        raise task.invalid(f"{INDEX} lists {len(entries)} images ({names}), none of them {reference!r}")
    digest = _descriptor(chosen[0], "an image", task)
    found = _parsed(_blob(layout, digest, task), "the manifest", task)
    if chosen[0].get("mediaType") not in _INDEXES:
        return found
    if depth == _DEEPEST:
        raise task.invalid(f"{INDEX} lists indexes of indexes")
    return _manifest(layout, found, None, task, depth + 1)


def _of_this_machine(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    here = architecture()
    return [entry for entry in entries if (entry.get("platform") or {}).get("architecture", here) == here]


def _list(value: object, name: str, task: Task) -> list[Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise task.invalid(f"its manifest or configuration has no list of {name}")
    return list(found)


def _descriptor(value: object, what: str, task: Task) -> str:
    digest = value.get("digest") if isinstance(value, Mapping) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise task.invalid(f"{what} has no digest of SHA-256: {str(digest)[:80]!r}")
    return digest


def _blob(layout: Path, digest: str, task: Task) -> str:
    text = _small(blob_path(layout, digest), digest, task)
    if f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
        raise task.invalid(f"blob {digest} has other content than its name says")
    return text.decode(errors="surrogateescape")


def _small(path: Path, what: str, task: Task) -> bytes:
    """The content of an ordinary file. No link is followed: the layout's maker may have been in a box."""
    try:
        with opened(path) as file:
            content = file.read(_LARGEST + 1)
    except OSError as problem:
        raise task.invalid(f"{what} cannot be read: {problem.strerror}") from None
    if len(content) > _LARGEST:
        raise task.invalid(f"{what} has more than {_LARGEST >> 20} MiB")
    return content


def opened(path: Path) -> FileIO:
    """An ordinary file, for reading, without a buffer: programs go on where we stop.

    Raises OSError on others: a link may lead anywhere, a pipe may never end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return FileIO(fd, "rb")


def _parsed(text: bytes | str, what: str, task: Task) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise task.invalid(f"{what} is not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise task.invalid(f"{what} is no JSON object")
    return found


def _put(blobs: Path, content: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    _replace(blobs / digest, content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all, and never through a link."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.write_bytes(content)
    fresh.replace(path)
