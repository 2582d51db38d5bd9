"""Images given out, as OCI layouts with layers that are not compressed, and layers alone.

Blocking; runs in a thread.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.images.archives import layout, unpack
from corral.images.archives.model import LayerFacts, Task
from corral.images.store import ImageStore, Stored

_CHUNK: Final = 1 << 20


def put_layout(store: ImageStore, stored: Stored, folder: Path, reference: str, task: Task) -> None:
    """Add the image to the layout. What is in the layout already, by name and size, is not made again."""
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    layers = [(diff_id, _put_layer(store, diff_id, folder, task)) for diff_id in stored.manifest.layers]
    layout.write(folder, reference, stored.manifest.config, layers)


def put_archive(store: ImageStore, stored: Stored, target: Path, reference: str, task: Task) -> None:
    """The same as one file: a tar of the layout. There is no half of one under its name."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        folder = Path(scratch) / "layout"
        put_layout(store, stored, folder, reference, task)
        whole = Path(scratch) / "archive"
        with tarfile.open(whole, "w") as tar:
            tar.add(folder, arcname=".")
        whole.replace(target)


def pack_layer(store: ImageStore, diff_id: str, target: Path, task: Task) -> None:
    """The archive of one layer as a file of its own, compressed. Raises errors.Unavailable."""
    facts = _facts(store, diff_id, task)
    _require(diff_id, unpack.pack(store.layer_folder(diff_id), facts.tar, target, task), task)


def _facts(store: ImageStore, diff_id: str, task: Task) -> LayerFacts:
    facts = store.facts(diff_id)
    if facts is None:
        raise errors.Unavailable(f"{task.what}: layer {diff_id} is not on this host", remedy="see: corral image fsck")
    return facts


def _put_layer(store: ImageStore, diff_id: str, folder: Path, task: Task) -> int:
    """Bytes of the layer's archive, which is among the layout's blobs then."""
    target = layout.blob_path(folder, diff_id)
    if target.is_file() and not target.is_symlink():
        return target.stat().st_size
    facts = _facts(store, diff_id, task)
    reading = unpack.archive(store.layer_folder(diff_id), facts.tar, task)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as output:
        fresh = Path(output.name)
        try:
            with reading as stream:
                while chunk := stream.read(_CHUNK):
                    task.check()
                    digest.update(chunk)
                    size += output.write(chunk)
                whole = reading.whole()
            _require(diff_id, f"sha256:{digest.hexdigest()}" if whole else "", task)
            output.flush()
            fresh.chmod(0o644)
            fresh.replace(target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    return size


def _require(diff_id: str, found: str, task: Task) -> None:
    if found != diff_id:
        message = f"{task.what}: layer {diff_id} is not what it was"
        raise errors.Unavailable(message, remedy="see: corral image fsck")
