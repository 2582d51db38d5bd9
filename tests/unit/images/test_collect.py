"""What may be removed, and what never is: by whoever asks, whatever else goes on."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from corral.core import errors
from corral.core.clock import ManualClock, SystemClock
from corral.images import holds
from corral.images.collect import Collected, collect
from corral.images.holds import Hold
from corral.images.service import Images
from corral.images.store import ImageStore
from corral.images.sweeper import LayerSweeper
from corral.runtime.contract import Layer
from tests.integration.images import archives
from tests.unit.images.scene import publish

WEEK_S = 7 * 24 * 3600


def removed(root: Path) -> int:
    """Layers that somebody without a server removes now."""
    collected = collect(ImageStore(root), SystemClock())
    assert collected is not None
    return len(collected.layers)


def test_layers_of_names_stay_and_others_go(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    kept = publish(store, "kept", "shared", "mine")
    gone = publish(store, "gone", "shared", "yours")
    store.drop("gone")
    collected = collect(store, SystemClock())
    assert collected == Collected((gone.layers[1].path.parent.name,), 0, collected.size if collected else 0)
    assert all(layer.path.is_dir() for layer in kept.layers)
    assert not gone.layers[1].path.exists()
    assert store.work_folders() == []


def test_what_a_server_resolved_stays_though_its_name_is_gone(tmp_path: Path) -> None:
    images = Images(tmp_path, tmp_path / "data")
    publish(images.store, "tiny", "one")
    path = images.resolve("tiny").layers[0].path
    images.remove("tiny")
    assert removed(tmp_path) == 0
    assert path.is_dir()


async def test_a_server_lets_go_of_what_nothing_of_it_uses(tmp_path: Path) -> None:
    clock = ManualClock()
    images = Images(tmp_path, tmp_path / "data", clock=clock)
    publish(images.store, "used", "one")
    publish(images.store, "unused", "two")
    used, unused = images.resolve("used").layers[0], images.resolve("unused").layers[0]
    images.remove("used")
    images.remove("unused")
    # Asked for a moment ago: a box may be about to begin.
    assert await images.collect([used]) == Collected()
    await clock.advance(3601)
    collected = await images.collect([used])
    assert collected is not None
    assert collected.layers == (unused.path.parent.name,)
    assert used.path.is_dir()


async def test_what_is_held_no_more_is_held_again_before_it_is_used_again(tmp_path: Path) -> None:
    clock = ManualClock()
    images = Images(tmp_path, tmp_path / "data", clock=clock)
    publish(images.store, "tiny", "one")
    images.resolve("tiny")
    await clock.advance(3601)
    await images.collect()
    path = images.resolve("tiny").layers[0].path
    images.remove("tiny")
    assert removed(tmp_path) == 0
    assert path.is_dir()


def test_a_hold_outlives_its_server(tmp_path: Path) -> None:
    images = Images(tmp_path / "images", tmp_path / "data")
    publish(images.store, "tiny", "one")
    images.resolve("tiny")
    images.remove("tiny")
    # The next server of the folder holds it too, before it has asked anything.
    Hold(images.store, tmp_path / "data").add([tmp_path / "other"])
    assert removed(tmp_path / "images") == 0


def test_a_hold_whose_server_is_gone_for_a_week_lapses(tmp_path: Path) -> None:
    store, data = ImageStore(tmp_path / "images"), tmp_path / "data"
    data.mkdir()
    stored = publish(store, "tiny", "one")
    hold = Hold(store, data)
    hold.add([stored.rootfs])
    store.drop("tiny")
    long_ago = time.time() - WEEK_S - 60
    os.utime(hold.path, (long_ago, long_ago))
    assert removed(store.root) == 0
    shutil.rmtree(data)
    os.utime(hold.path)
    assert removed(store.root) == 0
    os.utime(hold.path, (long_ago, long_ago))
    assert removed(store.root) == 1
    assert not hold.path.exists()


@pytest.mark.root
async def test_names_of_a_server_that_is_gone_for_a_week_go_with_it(tmp_path: Path) -> None:
    store, data = ImageStore(tmp_path / "images"), tmp_path / "data"
    images = Images(store.root, data)
    data.mkdir()
    layout = archives.layout(tmp_path / "layout", [archives.tar(archives.folder("./"))])
    for name in ("one", "two"):
        await images.import_layout(layout, f"corral-build/{name}", owned=True)
    await images.import_layout(layout, "everybodys")
    images.forget("corral-build/two")
    assert holds.owned(store) == {"corral-build/one"}
    images.leave([])
    (hold,) = holds.files(store)
    long_ago = time.time() - WEEK_S - 60
    os.utime(hold, (long_ago, long_ago))
    removed(store.root)
    assert store.names() == ["corral-build/one", "everybodys"]
    shutil.rmtree(data)
    removed(store.root)
    assert store.names() == ["everybodys"]
    assert holds.files(store) == []


def test_a_server_that_needs_nothing_leaves_no_hold(tmp_path: Path) -> None:
    images = Images(tmp_path, tmp_path / "data")
    publish(images.store, "tiny", "one")
    images.resolve("tiny")
    assert len(holds.files(images.store)) == 1
    images.leave([])
    assert holds.files(images.store) == []


def test_nothing_is_removed_while_somebody_adds(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    publish(store, "tiny", "one")
    store.drop("tiny")
    with store.working():
        assert collect(ImageStore(tmp_path), SystemClock()) is None
    assert removed(tmp_path) == 1


@pytest.mark.parametrize("place", ["names/strange", "holds/strange"])
def test_nothing_is_removed_when_it_cannot_be_known_what_is_needed(tmp_path: Path, place: str) -> None:
    store = ImageStore(tmp_path)
    stored = publish(store, "tiny", "one")
    store.drop("tiny")
    (tmp_path / place).write_text("{")
    with pytest.raises(errors.Unavailable, match="cannot remove layers: .*strange cannot be read"):
        collect(store, SystemClock())
    assert stored.rootfs.is_dir()


async def test_what_moves_between_boxes_and_rows_is_seen(tmp_path: Path) -> None:
    clock = ManualClock()
    images = Images(tmp_path, tmp_path / "data", clock=clock)
    layer = publish(images.store, "tiny", "one").layers[0]
    images.resolve("tiny")
    images.remove("tiny")
    await clock.advance(3601)
    in_box = [True]

    async def boxes(*, lasting: bool = False) -> set[Layer]:
        assert not lasting
        return {layer} if in_box[0] else set()

    async def rows() -> set[Layer]:
        found = set() if in_box[0] else {layer}
        in_box[0] = not in_box[0]
        return found

    sweeper = LayerSweeper(images, boxes, (rows,), clock=clock, keep_s=WEEK_S)
    await sweeper.sweep()
    await sweeper.sweep()
    assert layer.path.is_dir()
