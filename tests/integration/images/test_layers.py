"""Layers of images in the object store, for a node that has not the image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral.core import errors
from corral.images.layers import LayerShelf
from corral.images.remote_store import RemoteStore
from corral.runtime.contract import Layer
from corral.storage.service import open_store

pytestmark = pytest.mark.root

KEY = "k" * 43


def facts(tree: Path) -> list[tuple[object, ...]]:
    """All that a layer's files are, but for their inode numbers."""
    found: list[tuple[object, ...]] = []
    for path in sorted(tree.rglob("*")):
        info = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        extra = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        what = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink, info.st_rdev)
        link = path.readlink() if path.is_symlink() else None
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((path.relative_to(tree), *what, link, extra, content))
    return found


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    tree = tmp_path / "image" / "rootfs"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "passwd").write_text("root")
    os.link(tree / "etc" / "passwd", tree / "etc" / "hard")
    (tree / "soft").symlink_to("../../../../etc/shadow")
    os.mknod(tree / "gone", 0o600 | 0o020000, os.makedev(0, 0))
    os.setxattr(tree / "etc", "trusted.overlay.opaque", b"y")
    os.chown(tree / "etc" / "passwd", 1234, 5678)
    (tree / "etc" / "passwd").chmod(0o4711)
    os.utime(tree / "soft", ns=(1, 123456789), follow_symlinks=False)
    return Layer("sha256:" + "0" * 64, tree, 65536)


async def test_a_layer_is_fetched_to_the_byte_by_a_node_that_has_it_not(layer: Layer, tmp_path: Path) -> None:
    remote = RemoteStore(open_store(str(tmp_path / "objects")), KEY)
    here = LayerShelf(tmp_path / "here", remote, lambda: [layer])
    await here.keep(layer)
    assert await here.fetch(layer.digest, "rootfs") == layer
    there = LayerShelf(tmp_path / "there", remote, list)
    there.open()
    fetched = await there.fetch(layer.digest, "rootfs")
    assert (fetched.digest, fetched.id_base, fetched.path.parents[1]) == (layer.digest, 65536, tmp_path / "there")
    assert facts(fetched.path) == facts(layer.path)
    assert await there.fetch(layer.digest, "rootfs") == fetched


async def test_a_layer_that_is_nowhere_or_was_changed_is_told(layer: Layer, tmp_path: Path) -> None:
    remote = RemoteStore(open_store(str(tmp_path / "objects")), KEY)
    await LayerShelf(tmp_path / "here", remote, list).keep(layer)
    there = LayerShelf(tmp_path / "there", remote, list)
    there.open()
    with pytest.raises(errors.NotFound, match="neither on this host nor in the object store"):
        await there.fetch("sha256:" + "1" * 64, "rootfs")
    with pytest.raises(errors.Invalid, match="its name is not one of ours"):
        await there.fetch("sha256:" + "0" * 64, "../rootfs")
    (stream,) = (tmp_path / "objects").rglob("stream")
    stream.write_bytes(stream.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.WrongState, match="part 0 is not what was sent"):
        await there.fetch(layer.digest, "rootfs")
    there.open()
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(errors.WrongState, match="not signed with this server's remote key"):
        await LayerShelf(tmp_path / "third", RemoteStore(remote._contents, "o" * 43), list).fetch(
            layer.digest, "rootfs"
        )
