"""Layers that a server's devboxes and snapshots are on outlive their images' names, and no longer than needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core.clock import SystemClock
from corral.devboxes.model import Observed
from corral.images import collect, service
from corral.images.model import SnapshotWish
from corral.images.sweeper import LayerSweeper
from corral.runtime.contract import Layer
from tests.integration.devboxes.stack import ACCOUNT, Stack
from tests.unit.images.scene import publish


class LaterClock(SystemClock):
    """An hour is over whenever a test says so."""

    later = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later


@pytest.fixture
def clock() -> LaterClock:
    return LaterClock()


@pytest.fixture
def images(cold: Stack, tmp_path: Path, clock: LaterClock) -> service.Images:
    made = service.Images(tmp_path / "images", tmp_path / "data", clock=clock)
    cold.images = made
    return made


async def test_layers_of_boxes_snapshots_and_suspended_devboxes_stay(
    images: service.Images, stack: Stack, clock: LaterClock
) -> None:
    sweeper = LayerSweeper(images, stack.runtime.layers, (stack.copies.layers,), clock=clock, keep_s=3600)
    layers: dict[str, Layer] = {}
    ids: dict[str, str] = {}
    for name in ("runs", "sleeps", "copied", "unused"):
        layers[name] = publish(images.store, name, name).layers[0]
        ids[name] = await stack.running(image=name)
    await stack.devboxes.suspend(ACCOUNT, ids["sleeps"])
    await stack.reaches(ids["sleeps"], Observed.SUSPENDED)
    snapshot = await stack.snapshots.take(ACCOUNT, ids["copied"], SnapshotWish())
    await stack.snapshots.wait(ACCOUNT, snapshot.id, 10)
    for name in ("copied", "unused"):
        await stack.devboxes.shutdown(ACCOUNT, ids[name])
    await stack.until(lambda: len(stack.host.boxes) == 1)
    for name in layers:
        images.remove(name)

    def there() -> set[str]:
        return {name for name, layer in layers.items() if layer.path.is_dir()}

    async def forgotten() -> bool:
        return await stack.copies.layers() == set()

    clock.later = 3601
    await sweeper.sweep()
    assert there() == {"runs", "sleeps", "copied"}
    # Who removes layers without this server knows as much.
    assert collect.collect(images.store, SystemClock()) == collect.Collected()
    assert there() == {"runs", "sleeps", "copied"}
    # Though its name is gone, so are only its variables.
    await stack.devboxes.resume(ACCOUNT, ids["sleeps"])
    await stack.reaches(ids["sleeps"], Observed.RUNNING)
    again = await stack.snapshots.take(ACCOUNT, ids["sleeps"], SnapshotWish())
    await stack.snapshots.wait(ACCOUNT, again.id, 10)
    await stack.snapshots.delete(ACCOUNT, again.id)
    await stack.snapshots.delete(ACCOUNT, snapshot.id)
    await stack.until(forgotten)
    await stack.devboxes.shutdown(ACCOUNT, ids["sleeps"])
    await stack.ends(ids["sleeps"])
    await stack.until(lambda: len(stack.host.boxes) == 1)
    await sweeper.sweep()
    assert there() == {"runs"}
