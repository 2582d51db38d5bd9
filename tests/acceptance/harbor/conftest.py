"""Skips where there is nothing to build in or upon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral.core.settings import Settings
from corral.images.service import Images

IMAGES = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

#: What builds run in, and what the tasks' images are built upon.
NEEDED = ("builder", "debian-12", "debian-13-slim", "python-3.13-slim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where an image is missing."""
    missing = " ".join(sorted(set(NEEDED) - set(Images(IMAGES).names())))
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no image {missing}: corral image build {missing}"))
