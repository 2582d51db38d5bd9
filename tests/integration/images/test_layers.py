"""Layers of images in the object store, for a node that has not the image."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from corral.core import errors
from corral.core.clock import ManualClock
from corral.images import fsck
from corral.images.collect import Collected
from corral.images.layers import LayerShelf
from corral.images.remote_store import RemoteStore
from corral.images.service import Images
from corral.runtime.contract import Layer
from corral.storage.service import open_store
from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder

pytestmark = pytest.mark.root

KEY = "k" * 43
ARCHIVE = archives.tar(
    folder("./"),
    folder("./etc"),
    Entry("./etc/.wh..wh..opq"),
    Entry("./etc/passwd", b"root", mode=0o4711, owner=(1234, 5678), attributes={"user.note": "kept"}),
    Entry("./etc/hard", kind=tarfile.LNKTYPE, link="./etc/passwd"),
    Entry("./soft", kind=tarfile.SYMTYPE, link="../../../../etc/shadow"),
    Entry("./.wh.gone"),
)


def facts(tree: Path) -> list[tuple[object, ...]]:
    """All that a layer's files are, but for their inode numbers."""
    found: list[tuple[object, ...]] = []
    for path in sorted(tree.rglob("*")):
        info = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        extra = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        at = 0 if stat.S_ISCHR(info.st_mode) else info.st_mtime_ns  # no box sees when a removal was made
        what = (info.st_mode, info.st_uid, info.st_gid, at, info.st_nlink, info.st_rdev)
        link = path.readlink() if path.is_symlink() else None
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((path.relative_to(tree), *what, link, extra, content))
    return found


@pytest.fixture
def remote(tmp_path: Path) -> RemoteStore:
    return RemoteStore(open_store(str(tmp_path / "objects")), KEY)


@pytest.fixture
async def layer(tmp_path: Path, remote: RemoteStore) -> Layer:
    """One that a node has, and keeps in the object store."""
    here = Images(tmp_path / "here")
    (layer,) = (await here.import_layout(archives.layout(tmp_path / "layout", [ARCHIVE]), "odd:1")).layers
    await LayerShelf(remote, here).keep(layer)
    assert await LayerShelf(remote, here).fetch(layer.digest) == layer
    return layer


async def test_a_layer_is_fetched_to_the_byte_by_a_node_that_has_it_not(
    layer: Layer, remote: RemoteStore, tmp_path: Path
) -> None:
    there = Images(tmp_path / "there")
    fetched = await LayerShelf(remote, there).fetch(layer.digest)
    assert fetched == there.store.layer(layer.digest) != layer
    assert facts(fetched.path) == facts(layer.path)
    checked = fsck.check(there.store, repair=False)
    assert (checked.layers, checked.findings) == (1, ())


async def test_a_fetched_layer_stays_while_something_is_on_it_and_goes_then(
    layer: Layer, remote: RemoteStore, tmp_path: Path
) -> None:
    clock, data = ManualClock(), tmp_path / "data"
    data.mkdir()
    there = Images(tmp_path / "there", data, clock=clock)
    fetched = await LayerShelf(remote, there).fetch(layer.digest)
    assert await there.collect() == Collected()  # it was asked for a moment ago
    await clock.advance(4000)
    assert await there.collect([fetched]) == Collected()
    collected = await there.collect()
    assert collected is not None
    assert collected.layers == (fetched.path.parent.name,)
    assert (await LayerShelf(remote, there).fetch(layer.digest)).path.is_dir()


async def test_a_layer_that_is_nowhere_or_was_changed_is_told(
    layer: Layer, remote: RemoteStore, tmp_path: Path
) -> None:
    there = LayerShelf(remote, images := Images(tmp_path / "there"))
    with pytest.raises(errors.NotFound, match="neither on this host nor in the object store"):
        await there.fetch("sha256:" + "1" * 64)
    with pytest.raises(errors.Invalid, match="that is no digest"):
        await there.fetch("sha256:" + "0" * 63 + "/")
    other = archives.tar(folder("./"), Entry("./other"))

    async def pieces(content: bytes) -> Any:
        yield content

    with pytest.raises(errors.Invalid, match=f"has the digest {archives.digest(other)}, not {layer.digest}"):
        await images.take_layer(layer.digest, pieces(other))
    (stream,) = (tmp_path / "objects").rglob("stream")
    stream.write_bytes(stream.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.WrongState, match="part 0 is not what was sent"):
        await there.fetch(layer.digest)
    checked = fsck.check(images.store, repair=False)
    assert (checked.layers, checked.findings) == (0, ())
    with pytest.raises(errors.WrongState, match="not signed with this server's remote key"):
        await LayerShelf(RemoteStore(remote._contents, "o" * 43), images).fetch(layer.digest)
