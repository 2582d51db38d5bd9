"""What a name of an image stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core import errors
from corral.images import store
from corral.images.service import Images
from corral.images.store import ImageStore
from corral.runtime.contract import User
from tests.unit.images.scene import diff_id, publish


def test_no_name_means_the_default_image(tmp_path: Path) -> None:
    stored = publish(ImageStore(tmp_path), "debian-12", "one", env={"LANG": "C.UTF-8"})
    info = Images(tmp_path).resolve()
    assert (info.name, info.env, info.user) == ("debian-12", {"LANG": "C.UTF-8"}, User(name="me"))
    assert [(layer.path, layer.id_base) for layer in info.layers] == [(stored.rootfs, 0)]
    assert (info.digest, info.layers[0].digest) == (stored.manifest.digest, diff_id("one"))


def test_a_new_image_of_a_name_is_used_without_a_restart(tmp_path: Path) -> None:
    publish(ImageStore(tmp_path), "tiny", "one")
    images = Images(tmp_path)
    assert images.resolve("tiny").layers[0].digest == diff_id("one")
    publish(ImageStore(tmp_path), "tiny", "two")
    assert images.resolve("tiny").layers[0].digest == diff_id("two")


def test_a_new_environment_for_the_same_files_is_used_without_a_restart(tmp_path: Path) -> None:
    publish(ImageStore(tmp_path), "tiny", "one", env={"LANG": "C"})
    images = Images(tmp_path)
    assert images.resolve("tiny").env == {"LANG": "C"}
    publish(ImageStore(tmp_path), "tiny", "one", env={"LANG": "de_DE.UTF-8"})
    assert images.resolve("tiny").env == {"LANG": "de_DE.UTF-8"}


#: In halves, since no file names a registry's host.
HUB = f"{'docker'}.io"


@pytest.mark.parametrize("written", ["python", "python:latest", "library/python", f"{HUB}/library/python:latest"])
def test_a_name_without_a_tag_means_the_latest(tmp_path: Path, written: str) -> None:
    publish(ImageStore(tmp_path), "python:latest", "one")
    assert Images(tmp_path).resolve(written).name == "python:latest"


def test_registry_names_of_stock_images_mean_them_unless_they_were_imported(tmp_path: Path) -> None:
    images = Images(tmp_path)
    publish(images.store, "debian-12", "stock")
    assert images.resolve("debian:bookworm").layers[0].digest == diff_id("stock")
    publish(images.store, "debian:bookworm", "registry")
    assert images.resolve("debian:bookworm").layers[0].digest == diff_id("registry")


def test_an_alias_follows_its_target_without_a_restart(tmp_path: Path) -> None:
    images = Images(tmp_path)
    publish(images.store, "debian-12", "one")
    images.store.put_alias("ubuntu:24.04", "debian:12")
    assert (images.resolve("ubuntu:24.04").name, images.resolve("ubuntu:24.04").layers[0].digest) == (
        "ubuntu:24.04",
        diff_id("one"),
    )
    publish(images.store, "debian-12", "two")
    assert images.resolve("ubuntu:24.04").layers[0].digest == diff_id("two")
    images.store.drop("debian-12")
    with pytest.raises(errors.NotFound):
        images.resolve("ubuntu:24.04")


def test_an_image_that_is_not_there_is_refused_with_the_command_that_builds_it(tmp_path: Path) -> None:
    publish(ImageStore(tmp_path), "tiny", "one")
    message = (
        r"cannot use image 'debian-12': it is not on this host \(there: tiny\); build it with: corral image build"
    )
    with pytest.raises(errors.NotFound, match=message):
        Images(tmp_path).resolve()


def test_an_image_whose_layer_is_lost_is_refused_with_what_to_do(tmp_path: Path) -> None:
    stored = publish(ImageStore(tmp_path), "tiny", "one")
    store.remove_tree(stored.rootfs.parent)
    with pytest.raises(
        errors.Unavailable, match=r"cannot use image tiny: its layer sha256:\w+ is not on this host.*fsck"
    ):
        Images(tmp_path).resolve("tiny")


def test_a_host_without_any_image_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"\(there: none\)$"):
        Images(tmp_path / "none").resolve("other")


@pytest.mark.parametrize("name", ["../tiny", "/tiny", ".", "..", ".lock", "tiny/current", "a\0b", "x" * 300])
def test_a_name_that_is_a_path_is_no_image(tmp_path: Path, name: str) -> None:
    publish(ImageStore(tmp_path / "images"), "tiny", "one")
    publish(ImageStore(tmp_path), "tiny", "two")
    with pytest.raises(errors.NotFound):
        Images(tmp_path / "images").resolve(name)
