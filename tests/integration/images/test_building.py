"""A real build of a small flavour: what it makes, what a second one does, and what is left when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.core import errors
from corral.images import build, parallel, stock, store
from corral.images.archives import unpack
from corral.images.archives.model import Task
from corral.images.packages import Step
from corral.images.store import ImageStore, Stored
from tests.integration.images.conftest import IMAGES

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = stock.Flavour("small", "bookworm", ("ca-certificates",), env={"LANG": "C.UTF-8"})
MORE = stock.Flavour("more", "bookworm", ("hello",), "small", skeletons=())
LINK = stock.Flavour("link", "bookworm", (), "small", skeletons=(), links={"usr/local/bin/snake": "/usr/bin/python3"})
RECIPES = {each.name: each for each in (SMALL, MORE, LINK)}

BUILD = """
import pathlib, sys
from corral.images import build, stock, store
flavour = stock.Flavour("small", "bookworm", ("ca-certificates",))
build.build(store.ImageStore(pathlib.Path(sys.argv[1])), flavour, lambda step: print(step.text, flush=True))
"""


@dataclass(frozen=True)
class Made:
    """An empty store, and what building two layers of one base at once made of it and told."""

    images: ImageStore
    told: list[tuple[str, str]]

    def current(self, name: str) -> Stored:
        found = self.images.current(name)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock, "FLAVOURS", RECIPES)
        made = Made(ImageStore(tmp_path_factory.mktemp("images")), [])
        built = parallel.build_all(
            made.images, [MORE, LINK], lambda who, step: made.told.append((who.name, step.text))
        )
        assert {flavour.name: stored for flavour, stored in built} == {
            name: made.current(name) for name in ("more", "link")
        }
    return made


def test_a_build_makes_a_whole_image_and_the_next_has_nothing_to_do(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "FLAVOURS", RECIPES)
    built = made.current("small")
    assert (built.rootfs / "home/user/.bashrc").stat().st_uid == 1000
    assert {"bash", "ca-certificates", "dpkg"} <= built.manifest.packages.keys()
    assert built.manifest.env == {"LANG": "C.UTF-8"}
    assert unpack.digest_of(built.rootfs.parent, "split", Task("cannot read it")) == built.layers[0].digest
    steps = list[Step]()
    assert build.build(made.images, SMALL, steps.append) == built
    assert build.build(made.images, MORE, steps.append) == made.current("more")
    assert steps == []


def test_a_layer_has_what_it_adds_and_nothing_of_how_it_was_made(made: Made) -> None:
    below, more = made.current("small"), made.current("more")
    assert more.layers[:-1] == below.layers
    assert more.manifest.packages.keys() - below.manifest.packages.keys() == {"hello"}
    assert more.manifest.size > below.manifest.size
    top = more.layers[-1].path
    assert (top / "usr/bin/hello").is_file()
    names = {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}
    left = ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev", "proc", "tmp", "run", "etc/apt", "etc/hosts")
    assert [name for name in names if name.startswith(left)] == []
    (link,) = [path for path in made.current("link").layers[-1].path.rglob("*") if not path.is_dir()]
    assert link.readlink() == Path("/usr/bin/python3")


def test_images_that_share_a_base_are_built_at_once(made: Made) -> None:
    texts = [text for _, text in made.told]
    assert texts.count("small: computing the digest") == 1
    assert texts.count("small: waiting for another build") == 1
    assert {who for who, text in made.told if text == "computing the digest"} == {"more", "link"}
    assert mounts_below(made.images.root) == []


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(path) in line]


def processes_that_name(path: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if str(path) in words:
            found.append(words)
    return found


def test_a_killed_build_takes_its_processes_and_mounts_along(tmp_path: Path) -> None:
    target = tmp_path / "images"
    child = subprocess.Popen([sys.executable, "-c", BUILD, str(target)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("setting up"):
            break
    assert processes_that_name(target)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    deadline = time.monotonic() + 10
    while processes_that_name(target) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_that_name(target) == []
    assert mounts_below(target) == []
    assert ImageStore(target).current("small") is None


def test_a_mirror_that_does_not_answer_fails_with_the_cause_and_the_log(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match=r"cannot build image small: .*see .*build\.log") as failure:
        build.build(ImageStore(tmp_path), SMALL, lambda step: None, mirror="http://127.0.0.1:9/debian")
    assert "Could not connect" in failure.value.message
    images = ImageStore(tmp_path)
    assert images.names() == []
    assert images.work_folders() == []
    assert sorted(path.name for path in images.home("small").iterdir()) == [".lock", "build.log"]


def corral(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("corral")
    return subprocess.run([program, "image", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_lists_images_as_json(default_image: store.Stored) -> None:
    done = corral("list", "--json", "--images", str(IMAGES))
    assert done.returncode == 0, done.stderr
    (facts,) = [image for image in json.loads(done.stdout) if image["name"] == stock.DEFAULT]
    assert facts["digest"] == default_image.manifest.digest
    assert facts["size"] > 100e6


def test_the_command_refuses_an_unknown_recipe_in_one_line(tmp_path: Path) -> None:
    done = corral("build", "arch", "--images", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"corral: cannot build image arch: there is no such recipe, there are {', '.join(sorted(stock.FLAVOURS))}\n"
    )
