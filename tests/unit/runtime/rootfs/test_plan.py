"""The steps of a root filesystem, their order, and the way over the wire."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corral.runtime.contract import Layer
from corral.runtime.rootfs import steps
from corral.runtime.rootfs.file_pool import copy_sparse
from corral.runtime.rootfs.plan import MOST_LAYERS, Stage, root_plan

STAGE = Stage(Path("/run/corral/x/stage"))


def plan(
    layers: int = 2, *, used: bool = False, stores: tuple[str, ...] = (), lent: tuple[Layer, ...] = ()
) -> list[steps.Step]:
    below = [
        Layer(str(number), Path(f"/images/{number}/tree/{number}"), id_base=number * 65536) for number in range(layers)
    ]
    files = None if used else {"etc/hostname": "box\n"}
    binds = {"/run/x": Path("/bin/guest")}
    return root_plan(STAGE, below, Path("/pool/box"), owner=7, files=files, binds=binds, stores=stores, lent=lent)


def test_the_upper_is_made_first_and_binds_go_into_the_finished_root() -> None:
    kinds = [step.kind for step in plan()]
    assert kinds == ["upper", "disk", "layer", "layer", "overlay", "file"]


def test_nothing_is_written_to_a_disk_that_was_a_boxs() -> None:
    kinds = [step.kind for step in plan(used=True)]
    assert kinds == ["work", "disk", "layer", "layer", "overlay", "file"]


@pytest.mark.parametrize("used", [False, True])
def test_stores_lie_on_the_disk_beside_the_overlay(*, used: bool) -> None:
    made = plan(used=used, stores=("/var/lib/docker",))
    assert [step.kind for step in made][1:] == ["store", "disk", "layer", "layer", "overlay", "file", "bind-store"]
    (store,) = (step for step in made if isinstance(step, steps.MakeStore))
    bind = made[-1]
    assert isinstance(bind, steps.BindStore)
    assert store.folder == "/pool/box/stores/docker"
    assert (bind.source, bind.path) == ("/run/corral/x/stage/disk/stores/docker", "/var/lib/docker")


def test_lent_layers_come_last_each_alone_and_by_its_digest() -> None:
    made = plan(stores=("/var/lib/docker",), lent=(Layer("sha256:a1", Path("/images/l/a1/tree"), 5),))[-1]
    assert isinstance(made, steps.LendLayer)
    assert (made.source, made.path, made.id_base) == ("/images/l/a1/tree", "/var/lib/corral/layers/a1", 5)
    assert "ro,nodev" in made.describe()
    assert steps.unpack(json.loads(json.dumps(steps.pack(made)))) == made


def test_the_highest_layer_comes_first_in_the_overlay() -> None:
    overlay = next(step for step in plan(3) if isinstance(step, steps.MountOverlay))
    assert overlay.lowers == ("2", "1", "0")


def test_each_layer_keeps_its_own_id_base() -> None:
    assert [step.id_base for step in plan(3) if isinstance(step, steps.BindLayer)] == [0, 65536, 131072]


@pytest.mark.parametrize("layers", [0, MOST_LAYERS + 1])
def test_too_few_or_too_many_layers_are_refused(layers: int) -> None:
    with pytest.raises(ValueError, match="layers"):
        plan(layers)


def test_the_options_of_the_longest_plan_fit_into_one_page() -> None:
    overlay = next(step for step in plan(MOST_LAYERS) if isinstance(step, steps.MountOverlay))
    assert len(overlay.describe()) < os.sysconf("SC_PAGE_SIZE") - 1


def shelved(*places: tuple[str, int]) -> tuple[list[steps.BindLayer], tuple[str, ...]]:
    """The mounts and the lowers of a plan for layers at these paths, with these id bases."""
    layers = [Layer(str(number), Path(path), id_base=base) for number, (path, base) in enumerate(places)]
    made = root_plan(STAGE, layers, Path("/pool/box"), owner=7, files={}, binds={})
    (overlay,) = [step for step in made if isinstance(step, steps.MountOverlay)]
    return [step for step in made if isinstance(step, steps.BindLayer)], overlay.lowers


def test_layers_of_one_store_come_with_one_mount_in_their_order() -> None:
    mounts, lowers = shelved(
        ("/s/layers/a/tree", 0), ("/s/layers/b/tree", 0), ("/data/own", 0), ("/s/layers/c/tree", 0)
    )
    assert [(mount.source, mount.target) for mount in mounts] == [
        ("/s/layers", str(STAGE.layer(0))),
        ("/data/own", str(STAGE.layer(1))),
    ]
    assert lowers == ("0/c/tree", "1", "0/b/tree", "0/a/tree")


def test_layers_with_other_owners_or_alone_have_a_mount_of_their_own() -> None:
    mounts, lowers = shelved(("/s/layers/a/tree", 0), ("/s/layers/b/tree", 65536), ("/t/layers/c/tree", 0))
    assert [mount.source for mount in mounts] == ["/s/layers/a/tree", "/s/layers/b/tree", "/t/layers/c/tree"]
    assert lowers == ("2", "1", "0")


def test_no_mount_is_of_the_hosts_root() -> None:
    mounts, _ = shelved(("/a/tree", 0), ("/b/tree", 0))
    assert [mount.source for mount in mounts] == ["/a/tree", "/b/tree"]


def test_the_options_of_a_store_full_of_layers_fit_into_one_page() -> None:
    layers = [(f"/var/lib/corral/images/layers/{number:016x}/tree", 0) for number in range(MOST_LAYERS)]
    mounts, lowers = shelved(*layers)
    assert len(mounts) == 1
    assert len(":".join(lowers)) < os.sysconf("SC_PAGE_SIZE") - 300


def test_steps_survive_the_wire() -> None:
    disks = [steps.MakeSubvolume("/pool", "box", 1, origin) for origin in (None, "/pool/.snapshots/one")]
    made = [*plan(stores=("/a/b",)), *plan(used=True), *disks, steps.MountImage("/a", "/b", "ext4")]
    again = [steps.unpack(json.loads(json.dumps(steps.pack(step)))) for step in made]
    assert [step.describe() for step in again] == [step.describe() for step in made]


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(KeyError):
        steps.unpack({"kind": "shell", "command": "true"})


def test_a_sparse_copy_has_the_bytes_and_the_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.write(b"start")
        file.seek(50 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20
