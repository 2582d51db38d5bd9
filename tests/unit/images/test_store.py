"""Images on disk: whole or not there, one build at a time, the same content under the same name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.images import store
from corral.images.store import ImageStore, Manifest
from corral.runtime.contract import User


def manifest(name: str = "tiny", digest: str = "sha256:" + "a" * 64) -> Manifest:
    return Manifest(
        name=name,
        digest=digest,
        recipe="r1",
        created_ms=1_700_000_000_000,
        size=3,
        files=1,
        packages={"bash": "5.2"},
        env={"LANG": "C.UTF-8"},
        user=User(),
    )


def fail() -> None:
    pytest.fail("nobody else builds")


def publish(images: ImageStore, digest: str, text: str = "abc", waiting: Callable[[], None] = fail) -> store.Stored:
    with images.building("tiny", waiting) as folder:
        (folder / store.ROOTFS).mkdir()
        (folder / store.ROOTFS / "file").write_text(text)
        return images.publish(folder, manifest(digest=digest))


def test_a_published_image_is_current_and_reads_back(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    stored = publish(images, "sha256:" + "a" * 64)
    assert images.current("tiny") == stored
    assert images.names() == ["tiny"]
    assert (stored.rootfs / "file").read_text() == "abc"
    assert stored.path.name == "a" * 16


def test_the_next_build_takes_over_and_the_old_tree_stays_for_its_boxes(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    old = publish(images, "sha256:" + "a" * 64)
    new = publish(images, "sha256:" + "b" * 64, "new")
    assert images.current("tiny") == new
    assert (old.rootfs / "file").read_text() == "abc"


def test_the_same_content_keeps_the_tree_that_boxes_use(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    old = publish(images, "sha256:" + "a" * 64)
    inode = (old.rootfs / "file").stat().st_ino
    new = publish(images, "sha256:" + "a" * 64)
    assert (new.rootfs / "file").stat().st_ino == inode
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [".lock", "a" * 16, "current"]


def test_a_failed_build_leaves_the_old_image_and_no_files(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    old = publish(images, "sha256:" + "a" * 64)
    with pytest.raises(FileNotFoundError), images.building("tiny", fail) as folder:
        (folder / "no such folder/half").write_text("x")
    assert images.current("tiny") == old
    assert [path for path in (tmp_path / "tiny").iterdir() if path.name.startswith(".build")] == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from corral.images.store import ImageStore\n"
        "with ImageStore(pathlib.Path(sys.argv[1])).building('tiny', lambda: None) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30)
    assert done.returncode == -9
    (stale,) = (tmp_path / "tiny").glob(".build-*")
    images = ImageStore(tmp_path)
    assert images.current("tiny") is None
    publish(images, "sha256:" + "a" * 64)
    assert not stale.exists()


def test_a_second_build_of_the_same_name_waits_for_the_first(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    waits = threading.Event()
    done: list[store.Stored] = []
    with images.building("tiny", fail) as folder:
        second = threading.Thread(
            target=lambda: done.append(publish(ImageStore(tmp_path), "sha256:" + "b" * 64, waiting=waits.set))
        )
        second.start()
        assert waits.wait(10)
        assert done == []
        (folder / store.ROOTFS).mkdir()
        images.publish(folder, manifest())
    second.join(10)
    assert images.current("tiny") == done[0]


def test_users_of_the_host_cannot_reach_setuid_programs_of_an_image(tmp_path: Path) -> None:
    publish(ImageStore(tmp_path), "sha256:" + "a" * 64)
    assert (tmp_path / "tiny").stat().st_mode & 0o777 == 0o700


def make_tree(root: Path) -> Path:
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_text("text")
    (root / "link").symlink_to("dir/file")
    return root


def chmod(root: Path) -> None:
    (root / "dir/file").chmod(0o600)


def rewrite(root: Path) -> None:
    (root / "dir/file").write_text("tExt")


def relink(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")


def rename(root: Path) -> None:
    (root / "dir/file").rename(root / "dir/other")


@pytest.mark.parametrize("change", [chmod, rewrite, relink, rename])
def test_the_digest_covers_modes_contents_links_and_names(tmp_path: Path, change: Callable[[Path], None]) -> None:
    before = store.digest_tree(make_tree(tmp_path / "a"))
    change(tmp_path / "a")
    assert store.digest_tree(tmp_path / "a")[0] != before[0]


def test_the_digest_does_not_depend_on_times_or_place(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "a"), make_tree(tmp_path / "b")
    os.utime(second / "dir/file", (1, 1))
    assert store.digest_tree(first) == store.digest_tree(second)
    assert store.digest_tree(first)[1:] == (4, 3)


def test_removing_a_link_leaves_its_target(tmp_path: Path) -> None:
    target = make_tree(tmp_path / "a")
    (tmp_path / "link").symlink_to(target)
    store.remove_tree(tmp_path / "link")
    assert target.exists()
    assert not (tmp_path / "link").is_symlink()
