"""Boxes of images with many layers: they show what the image means."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.images.service import Images
from corral.runtime.contract import Layer
from corral.runtime.oci.settings import OciSettings
from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder, tar
from tests.integration.oci.conftest import IMAGES, Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

LAYERS = 40


@pytest.fixture
async def many(tmp_path: Path) -> tuple[Layer, ...]:
    """Layers over the default image: each removes what the one before it made."""
    tops = [
        tar(folder("./"), folder("srv/"), Entry(f"srv/{n}", b"x", owner=(1000, 1000)), Entry(f"srv/.wh.{n - 1}"))
        for n in range(1, LAYERS)
    ]
    last = tar(
        folder("./"), folder("opt/"), Entry("opt/.wh..wh..opq"), Entry("opt/last", kind=tarfile.SYMTYPE, link="/srv")
    )
    layout = archives.layout(tmp_path / "layout", [*tops, last])
    info = await Images(tmp_path / "images").import_layout(layout, "many")
    return (*Images(IMAGES).resolve().layers, *info.layers)


@pytest.fixture
async def layered(settings: OciSettings, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(replace(settings, layer_roots=(IMAGES, tmp_path / "images"), warm=0))
    await made.runtime.start()
    try:
        yield made
    finally:
        await made.clear()
        await made.runtime.close()


async def test_a_box_of_many_layers_shows_what_the_image_means(layered: Bench, many: tuple[Layer, ...]) -> None:
    await layered.runtime.create(replace(layered.spec("many"), layers=many))
    shown = await layered.sh("many", "ls -n /srv | tail -n +2 | awk '{print $3, $9}'; ls /opt; touch ~/mine && id -un")
    assert shown.stdout == f"1000 {LAYERS - 1}\nlast\nuser\n", shown.stderr
