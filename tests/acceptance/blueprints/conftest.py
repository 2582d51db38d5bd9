"""One server for the module, with the images of this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core.settings import Settings
from corral.images.service import Images
from tests.harness.builds import eventually
from tests.harness.cli import Cli
from tests.harness.server import Server

IMAGES = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

#: What builds run in, and what is built upon: small, so that it is loaded quickly.
NEEDED = ("builder", "debian-13-slim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there is nothing to build in or upon."""
    missing = " ".join(sorted(set(NEEDED) - set(Images(IMAGES).names())))
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no image {missing}: corral image build {missing}"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("blueprints") / "data", runtime="oci") as running:
        yield running
        # A build that a failed test left would go on in a devbox that is no account's to shut down.
        cli = Cli(running, tmp_path_factory.mktemp("end"))
        for blueprint in cli.json("blueprint", "list"):
            cli.out("blueprint", "delete", blueprint["id"])
        running.shutdown_all()
        eventually(lambda: not list((running.data / "boxes").glob("*")))


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server, tmp_path)
