"""A guest for each test, and one that the tests of a module share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.guest import box as boxes


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to map ids into a namespace")
    boxes.build()
    if not boxes.GUEST.exists():
        pytest.skip(f"there is no guest at {boxes.GUEST} and no cargo to build it")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[boxes.Box]:
    with boxes.running(tmp_path) as started:
        yield started
