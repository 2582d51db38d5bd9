"""What a nested box costs beside another."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import GUEST, IMAGES, Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

#: A nested box needs namespaces of its own, which no slot in stock has, and three mounts more.
MOST_SLOWER = 1.3
ROUNDS = 9


async def test_a_nested_box_starts_about_as_fast_as_another(tmp_path: Path) -> None:
    bench = Bench(OciSettings(data=tmp_path / "data", guest=GUEST, layer_roots=(IMAGES,), slots_ready=2))
    await bench.runtime.start()
    took: dict[bool, list[float]] = {False: [], True: []}
    try:
        await bench.box("first")
        for number in range(ROUNDS):
            for nested in (False, True):
                box = f"b{number}{nested}".lower()
                began = time.monotonic()
                await bench.runtime.create(replace(bench.spec(box), nested=nested))
                took[nested].append(time.monotonic() - began)
                await bench.runtime.destroy(box)
    finally:
        await bench.clear()
        await bench.runtime.close()
    plain, nested_ms = (statistics.median(took[kind]) * 1000 for kind in (False, True))
    print(f"plain {plain:.1f} ms, nested {nested_ms:.1f} ms")
    assert nested_ms <= MOST_SLOWER * plain + 5, (plain, nested_ms)
