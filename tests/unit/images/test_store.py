"""Images on disk: whole or not there, one build at a time, every layer once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from corral.core import errors
from corral.images import store
from corral.images.store import ImageStore
from tests.unit.images.scene import add_layer, diff_id, manifest, publish


def fail() -> None:
    pytest.fail("nobody else builds")


def test_a_published_image_is_current_and_reads_back(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    stored = publish(images, "tiny:1", "abc")
    assert images.current("tiny:1") == stored
    assert images.names() == ["tiny:1"]
    assert (stored.rootfs / "file").read_text() == "abc"
    assert stored.layers[0].digest == diff_id("abc")


def test_the_next_image_of_a_name_takes_over_and_the_old_layer_stays_for_its_boxes(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    old = publish(images, "tiny", "old")
    new = publish(images, "tiny", "new")
    assert images.current("tiny") == new
    assert (old.rootfs / "file").read_text() == "old"


def test_a_layer_that_is_there_keeps_the_tree_that_boxes_use(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    inode = (publish(images, "one", "abc").rootfs / "file").stat().st_ino
    assert (publish(images, "two", "abc").rootfs / "file").stat().st_ino == inode
    assert len(list((tmp_path / store.LAYERS).iterdir())) == 1
    assert images.work_folders() == []


def test_a_layer_of_the_same_short_name_is_refused(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    publish(images, "one", "abc")
    namesake = diff_id("abc")[:-1] + ("0" if diff_id("abc")[-1] != "0" else "1")
    with pytest.raises(errors.Conflict, match="same short name"):
        images.facts(namesake)
    with images.working() as work, pytest.raises(errors.Conflict):
        add_layer(images, work, "abc", namesake)


def test_of_a_layer_that_comes_twice_the_upper_one_counts(tmp_path: Path) -> None:
    lower, upper = diff_id("lower"), diff_id("upper")
    assert manifest(lower, upper, lower).distinct == (upper, lower)


def test_a_failed_build_leaves_the_old_image_and_no_files(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    old = publish(images, "tiny", "old")
    with pytest.raises(FileNotFoundError), images.building("tiny", fail) as folder:
        (folder / "no such folder/half").write_text("x")
    assert images.current("tiny") == old
    assert images.work_folders() == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from corral.images.store import ImageStore\n"
        "with ImageStore(pathlib.Path(sys.argv[1])).building('tiny', lambda: None) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30)
    assert done.returncode == -signal.SIGKILL
    images = ImageStore(tmp_path)
    assert len(images.work_folders()) == 1
    assert images.current("tiny") is None
    publish(images, "tiny", "abc")
    assert images.work_folders() == []


def test_what_somebody_is_making_is_not_removed(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    with images.working() as folder:
        assert ImageStore(tmp_path).sweep_work() == []
        with ImageStore(tmp_path).working():
            assert folder.is_dir()


def test_a_second_build_of_the_same_name_waits_for_the_first(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    waits = threading.Event()
    order: list[str] = []

    def build_second() -> None:
        with ImageStore(tmp_path).building("tiny", waits.set):
            order.append("second")

    with images.building("tiny", fail):
        second = threading.Thread(target=build_second)
        second.start()
        assert waits.wait(10)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


def test_users_of_the_host_cannot_reach_setuid_programs_of_an_image(tmp_path: Path) -> None:
    publish(ImageStore(tmp_path), "tiny", "abc")
    assert (tmp_path / store.LAYERS).stat().st_mode & 0o777 == 0o700
    assert (tmp_path / store.SCRATCH).stat().st_mode & 0o777 == 0o700


def test_an_alias_follows_its_target_and_cannot_go_round(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    publish(images, "debian-13", "one")
    images.put_alias("ubuntu:24.04", "debian-13")
    images.put_alias("ubuntu:latest", "ubuntu:24.04")
    found = images.current("ubuntu:latest")
    assert found is not None
    assert found.layers[0].digest == diff_id("one")
    publish(images, "debian-13", "two")
    found = images.current("ubuntu:latest")
    assert found is not None
    assert found.layers[0].digest == diff_id("two")
    with pytest.raises(errors.Conflict, match="debian-13 -> ubuntu:latest -> ubuntu:24.04 -> debian-13 is a circle"):
        images.put_alias("debian-13", "ubuntu:latest")
    with pytest.raises(errors.Conflict, match="circle"):
        images.put_alias("self", "self")


def test_a_row_of_aliases_has_an_end(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    for number in range(7):
        images.put_alias(f"alias-{number}", f"alias-{number - 1}" if number else "tiny")
    with pytest.raises(errors.Conflict, match="more than 7 aliases in a row"):
        images.put_alias("alias-7", "alias-6")


def test_a_forgotten_name_is_no_name_and_its_layers_stay(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    stored = publish(images, "tiny", "abc")
    assert images.drop("tiny")
    assert not images.drop("tiny")
    assert images.names() == []
    assert stored.rootfs.is_dir()


def test_removing_a_link_leaves_its_target(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    store.remove_tree(tmp_path / "link")
    assert target.exists()
    assert not (tmp_path / "link").is_symlink()


def test_a_store_that_was_never_used_is_empty(tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "none")
    assert images.names() == []
    assert images.current("tiny") is None
    assert not (tmp_path / "none").exists()
