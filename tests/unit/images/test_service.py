"""What a name of an image stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core import errors
from corral.images import store
from corral.images.service import Images
from corral.images.store import ImageStore, Manifest
from corral.runtime.contract import User


def publish(root: Path, name: str, letter: str = "a", lang: str = "C.UTF-8") -> store.Stored:
    images = ImageStore(root)
    facts = Manifest(name, f"sha256:{letter * 64}", "r", 0, 0, 0, {}, {"LANG": lang}, User(name="me"))
    with images.building(name, lambda: None) as folder:
        (folder / store.ROOTFS).mkdir()
        return images.publish(folder, facts)


def test_no_name_means_the_default_image(tmp_path: Path) -> None:
    stored = publish(tmp_path, "debian-12")
    info = Images(tmp_path).resolve()
    assert (info.name, info.env, info.user) == ("debian-12", {"LANG": "C.UTF-8"}, User(name="me"))
    assert [(layer.path, layer.id_base) for layer in info.layers] == [(stored.rootfs, 0)]
    assert info.layers[0].digest == info.digest == "sha256:" + "a" * 64


def test_a_new_build_is_used_without_a_restart(tmp_path: Path) -> None:
    publish(tmp_path, "tiny")
    images = Images(tmp_path)
    assert images.resolve("tiny").digest == "sha256:" + "a" * 64
    publish(tmp_path, "tiny", "b")
    assert images.resolve("tiny").digest == "sha256:" + "b" * 64


def test_a_new_environment_for_the_same_files_is_used_without_a_restart(tmp_path: Path) -> None:
    publish(tmp_path, "tiny")
    images = Images(tmp_path)
    assert images.resolve("tiny").env == {"LANG": "C.UTF-8"}
    publish(tmp_path, "tiny", lang="de_DE.UTF-8")
    assert images.resolve("tiny").env == {"LANG": "de_DE.UTF-8"}


def test_an_image_that_is_not_there_is_refused_with_the_command_that_builds_it(tmp_path: Path) -> None:
    publish(tmp_path, "tiny")
    message = (
        r"cannot use image 'debian-12': it is not on this host \(there: tiny\); build it with: corral image build"
    )
    with pytest.raises(errors.NotFound, match=message):
        Images(tmp_path).resolve()


def test_a_host_without_any_image_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"\(there: none\)$"):
        Images(tmp_path / "none").resolve("other")


@pytest.mark.parametrize("name", ["../tiny", "/tiny", ".", "..", ".lock", "tiny/current", "a\0b"])
def test_a_name_that_is_a_path_is_no_image(tmp_path: Path, name: str) -> None:
    publish(tmp_path / "images", "tiny")
    publish(tmp_path, "tiny")
    with pytest.raises(errors.NotFound):
        Images(tmp_path / "images").resolve(name)
