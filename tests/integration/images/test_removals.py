"""A layer that was an overlay's upper folder: what it removes is removed wherever the image is taken to."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from corral.images.archives import unpack
from corral.images.archives.model import Task
from corral.images.archives.unpack import TREE, Blob

pytestmark = [pytest.mark.root]

#: $1 is a folder; what is done above `lower` is in `layer/tree` afterwards.
CHANGE = """
set -e
cd "$1"
mkdir lower layer layer/tree work merged
mkdir lower/kept lower/folder lower/gone
touch lower/kept/one lower/kept/two lower/folder/old lower/gone/file
mount -t overlay overlay -o lowerdir=lower,upperdir=layer/tree,workdir=work,redirect_dir=off merged
rm merged/kept/one
rm -r merged/gone merged/folder
mkdir merged/folder
echo new > merged/folder/new
echo changed > merged/kept/two
"""


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    subprocess.run(["unshare", "--mount", "sh", "-c", CHANGE, "sh", str(tmp_path)], check=True, timeout=30)
    return tmp_path / "layer"


def removals(tree: Path) -> set[str]:
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if stat.S_ISCHR(path.lstat().st_mode)}
    return found | {
        f"{path.relative_to(tree)}/" for path in tree.rglob("*") if "trusted.overlay.opaque" in os.listxattr(path)
    }


def test_removals_survive_an_archive(layer: Path, tmp_path: Path) -> None:
    task = Task("cannot test")
    changed = (layer / TREE / "kept").stat().st_mtime_ns
    facts = unpack.split(layer / TREE, layer, task)
    assert removals(layer / TREE) == {"kept/one", "gone", "folder/"}
    assert (layer / TREE / "kept").stat().st_mtime_ns == changed
    archive = tmp_path / "layer.tar"
    with unpack.archive(layer, facts.tar, task) as stream:
        archive.write_bytes(stream.read())
    listed = subprocess.run(["tar", "-tf", archive], check=True, capture_output=True, text=True).stdout.split()
    assert {"./kept/.wh.one", "./.wh.gone", "./folder/.wh..wh..opq"} <= set(listed)
    copy = tmp_path / "copy"
    copy.mkdir()
    again = unpack.unpack(Blob(archive, facts.diff_id), copy, "layer", task)
    assert removals(copy / TREE) == removals(layer / TREE)
    assert (again.size, again.files) == (facts.size, facts.files)


def test_an_overlays_own_notes_are_no_part_of_a_layer(layer: Path) -> None:
    tree = layer / TREE
    assert any(name.startswith("trusted.overlay.") for name in os.listxattr(tree / "kept"))
    unpack.split(tree, layer, Task("cannot test"))
    notes = {name for path in (tree, *tree.rglob("*")) for name in os.listxattr(path, follow_symlinks=False)}
    assert notes == {"trusted.overlay.opaque"}
