"""One server of builds for each module, with the images of this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core.settings import Settings
from corral.images.service import Images
from tests.harness.builds import BuildServer

IMAGES = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

#: What tests build upon: small, so that it is loaded quickly.
BASE = "debian-13-slim"


def missing_images() -> str:
    """Images that are not on this host, but are needed here."""
    return " ".join(sorted({"builder", BASE} - set(Images(IMAGES).names())))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there is nothing to build in or upon."""
    if names := missing_images():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"no image {names}: corral image build {names}"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildServer]:
    """A server whose builds have little memory and disk, and a short log."""
    with BuildServer(
        tmp_path_factory.mktemp("builds") / "data",
        IMAGES,
        CORRAL_BUILD_MEMORY=str(512 << 20),
        CORRAL_BUILD_DISK=str(3 << 29),
        CORRAL_BUILD_LOG_LIMIT="100000",
        CORRAL_BUILD_CONTEXT_LIMIT=str(4 << 20),
    ) as running:
        yield running
