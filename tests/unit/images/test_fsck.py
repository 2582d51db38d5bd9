"""What a check of the store finds, and what a repair removes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.images import fsck
from corral.images.fsck import Kind
from corral.images.holds import Hold
from corral.images.service import Images
from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder, tar

pytestmark = [pytest.mark.root]

LAYERS = [
    tar(folder("./"), folder("dir/"), Entry("dir/file", b"text"), Entry("dir/other", b"more", mode=0o755)),
    tar(folder("./"), Entry("top", b"top")),
]


@pytest.fixture
async def images(tmp_path: Path) -> Images:
    made = Images(tmp_path / "images")
    await made.import_layout(archives.layout(tmp_path / "layout", LAYERS), "tool:1")
    return made


def kinds(images: Images, *, repair: bool = False) -> list[Kind]:
    return sorted(finding.kind for finding in fsck.check(images.store, repair=repair).findings)


def change(path: Path) -> None:
    """One byte, and nothing else: not even its time."""
    before = path.stat()
    path.write_bytes(b"tExt")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda tree: change(tree / "dir/file"),
    "a mode": lambda tree: (tree / "dir/file").chmod(0o4755),
    "an owner": lambda tree: os.chown(tree / "dir/file", 7, 7),
    "a name": lambda tree: (tree / "dir/file").rename(tree / "dir/renamed"),
    "one more": lambda tree: (tree / "dir/new").write_text(""),
    "one less": lambda tree: (tree / "dir/file").unlink(),
    "an attribute": lambda tree: os.setxattr(tree / "dir", "trusted.overlay.opaque", b"y"),
    "its facts": lambda tree: (tree.parent / "layer.json").write_text("{}"),
    "its archive": lambda tree: (tree.parent / "tar-split.gz").write_bytes(b"\x1f\x8b no"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_in_a_layer_is_found(images: Images, what: str) -> None:
    assert kinds(images) == []
    CHANGES[what](images.resolve("tool:1").layers[0].path)
    assert kinds(images) == [Kind.BROKEN, Kind.DANGLING]


def test_a_repair_removes_what_is_broken_and_unused_and_keeps_what_a_server_needs(
    images: Images, tmp_path: Path
) -> None:
    lower, upper = (layer.path for layer in images.resolve("tool:1").layers)
    change(lower / "dir/file")
    (upper / "top").write_bytes(b"TOP")
    Hold(images.store, tmp_path / "data").add([upper])
    checked = fsck.check(images.store, repair=True)
    assert not checked.sound
    assert {(finding.kind, finding.path.name, finding.mended) for finding in checked.findings} == {
        (Kind.BROKEN, lower.parent.name, True),
        (Kind.BROKEN, upper.parent.name, False),
        (Kind.DANGLING, "tool%3A1", True),
    }
    assert not lower.exists()
    assert upper.is_dir()
    assert images.names() == []


def test_a_layer_that_a_server_has_lost_is_told(images: Images, tmp_path: Path) -> None:
    Hold(images.store, tmp_path / "data").add([images.store.layer("sha256:" + "0" * 64).path])
    (finding,) = fsck.check(images.store, repair=True).findings
    assert (finding.kind, finding.cause) == (Kind.LOST, f"data folder {tmp_path / 'data'} needs it")


def test_leftovers_and_strangers_are_told_apart(images: Images) -> None:
    root = images.store.root
    (root / "scratch/making-abc").mkdir()
    (root / "scratch/making-abc/half").write_text("x")
    (root / "names/.half").write_text("x")
    (root / "debian-12").mkdir()
    assert kinds(images) == [Kind.LEFTOVER, Kind.LEFTOVER, Kind.UNKNOWN]
    with images.store.working():
        assert kinds(images) == [Kind.UNKNOWN]
    fsck.check(images.store, repair=True)
    assert kinds(images) == [Kind.UNKNOWN]
    assert (root / "debian-12").is_dir()


def test_names_that_stand_for_nothing_are_found_and_removed(images: Images) -> None:
    images.store.put_alias("other", "tool:1")
    images.store.put_alias("nothing", "none")
    (images.store.root / "names/strange").write_text("{")
    assert kinds(images) == [Kind.DANGLING, Kind.DANGLING]
    assert kinds(images, repair=True) == [Kind.DANGLING, Kind.DANGLING]
    assert kinds(images) == []
    assert images.names() == ["other", "tool:1"]
