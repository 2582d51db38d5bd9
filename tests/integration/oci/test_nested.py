"""Nested boxes of the OCI driver: what they leave behind and what forbids them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime.contract import STORES, HostUnfit
from corral.runtime.network.namespace import MOST_NAMESPACES
from tests.integration.oci.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]


async def make(bench: Bench, box: str, *, nested: bool = True) -> None:
    await bench.runtime.create(replace(bench.spec(box), nested=nested))


def groups(bench: Bench, box: str) -> list[Path]:
    """The control groups of a box that are on the host, on every hierarchy."""
    return [folder for folder in bench.places.group(bench.runtime._host.layout, box).folders if folder.exists()]


async def test_nothing_of_a_nested_box_stays(bench: Bench) -> None:
    await make(bench, "one")
    ran = await bench.sh(
        "one", "mkdir -p /sys/fs/cgroup/a/b && sleep 100 & sleep 0.1; ls -d /sys/fs/cgroup/a/b", "root"
    )
    assert ran.code == 0, ran
    assert groups(bench, "one")
    await bench.runtime.destroy("one")
    assert groups(bench, "one") == []
    assert not bench.runtime._host.pool.folder("one").exists()


async def test_a_server_that_forbids_nested_boxes_makes_none(bench: Bench) -> None:
    await bench.reopen(nested=False)
    with pytest.raises(HostUnfit) as refused:
        await make(bench, "one")
    assert "switched off" in str(refused.value)
    assert "CORRAL_NESTED" in refused.value.remedy
    assert await bench.runtime.boxes() == []
    await make(bench, "plain", nested=False)


async def test_stores_are_where_the_box_has_them_and_never_outside_of_it(bench: Bench) -> None:
    """A disk that a plain box left, with links where the stores are to be."""
    await bench.box("before")
    links = "rm -rf /var/lib/docker && ln -s /etc /var/lib/docker && rm -rf /srv && ln -s / /srv && "
    links += "rm -rf /var/lib/containers && ln -s ../../../../../../srv/etc/new /var/lib/containers"
    assert (await bench.sh("before", links, "root")).code == 0
    await bench.runtime.snapshot("before", "linked")
    host = sorted(path.name for path in Path("/etc").iterdir())
    try:
        await bench.runtime.create(replace(bench.spec("after"), nested=True, origin="linked"))
    finally:
        await bench.runtime.forget_snapshot("linked")
    seen = (await bench.sh("after", "cut -d' ' -f2 /proc/mounts", "root")).stdout.split()
    assert {"/etc", STORES[1], STORES[2]} <= set(seen)
    assert sorted(path.name for path in Path("/etc").iterdir()) == host


async def test_the_oom_score_is_a_boxes_and_can_go_to_zero_only(bench: Bench) -> None:
    await make(bench, "one")
    assert (await bench.sh("one", "cat /proc/1/oom_score_adj")).stdout == "300\n"
    lower = "echo 0 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj; echo -1 > /proc/self/oom_score_adj"
    ran = await bench.sh("one", f"bash -c '{lower}'", "root")
    assert (ran.stdout, ran.code) == ("0\n", 1)


async def test_the_bounds_are_above_the_boxes_own_namespace(bench: Bench) -> None:
    """Root of the box reads what its own namespace allows; what holds is the one between it and the host."""
    await make(bench, "one")
    ran = await bench.sh(
        "one", "for i in $(seq 300); do unshare -n sleep 9 & done 2>&1; sleep 3; lsns -t net -n | wc -l", "root"
    )
    assert int(ran.stdout.split()[-1]) <= MOST_NAMESPACES + 1
    assert (await bench.sh("one", "cat /proc/self/uid_map")).stdout.split()[2] == "65536"
