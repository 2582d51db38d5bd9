"""A name of a registry in a Dockerfile means what the registry has, and a stock image where no registry answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.images.stock import DEFAULT
from corral.images.store import ImageStore
from tests.acceptance.blueprints.conftest import IMAGES, NEEDED
from tests.harness.cli import Cli
from tests.harness.server import Server
from tests.integration.images import archives

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(180)]

HUB = f"{'docker'}.io"


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Path]:
    """A store of its own, with what is needed: what is pulled into it means nothing to others."""
    here, there = ImageStore(IMAGES), ImageStore(tmp_path / "images")
    with there.working():
        for stored in filter(None, map(here.current, NEEDED)):
            for layer in stored.manifest.layers:
                target = there.layer_folder(layer)
                target.parent.mkdir(exist_ok=True)
                if not target.exists():
                    subprocess.run(("cp", "-a", "--reflink=auto", here.layer_folder(layer), target), check=True)
            there.put(stored.name, stored.manifest)
    there.put_alias(DEFAULT, NEEDED[-1])
    yield there.root
    shutil.rmtree(there.root)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with archives.registry(tmp_path / "registry") as host:
        yield host


@pytest.fixture
def other(tmp_path: Path, images: Path, registry: str) -> Iterator[Cli]:
    config = tmp_path / "registries.conf"
    config.write_text(f'[[registry]]\nprefix = "{HUB}"\nlocation = "{registry}"\ninsecure = true\n')
    env = {"CORRAL_IMAGES": str(images), "CORRAL_REGISTRIES": str(config)}
    with Server(tmp_path / "data", runtime="oci", env=env) as server:
        cli = Cli(server, tmp_path)
        yield cli
        for blueprint in cli.json("blueprint", "list"):
            cli.out("blueprint", "delete", blueprint["id"])
        server.shutdown_all()


def build(cli: Cli, name: str, dockerfile: str) -> dict[str, object]:
    (cli.folder / "Dockerfile").write_text(dockerfile)
    made = json.loads(cli.out("blueprint", "create", name, "--dockerfile", "Dockerfile", "--json"))
    assert made["status"] == "build_complete", made
    return dict(made)


def test_a_registry_that_answers_is_believed_over_a_stock_image(other: Cli, images: Path, registry: str) -> None:
    build(other, "stock", "FROM debian:trixie-slim\nRUN test ! -e /marker && echo registry > /marker\n")
    (built,) = [name for name in ImageStore(images).names() if name.startswith("corral-build/")]
    other.out("image", "export", built, "layout", "--images", str(images))
    layout = f"oci:{other.folder / 'layout'}"
    archives.skopeo("--dest-tls-verify=false", layout, f"docker://{registry}/library/debian:13-slim")
    first = build(other, "official", "FROM debian:13-slim\nRUN cat /marker\n")
    assert "registry" in other.out("blueprint", "logs", str(first["id"]))
    # It is on this host from then on, and what is built upon it is known by what it is.
    again = build(other, "official", "FROM debian:13-slim\nRUN cat /marker\n")
    assert int(str(again["build_finish_time_ms"])) - int(str(again["create_time_ms"])) < 2000
    assert len([name for name in ImageStore(images).names() if name.startswith("corral-build/")]) == 2
