"""Recorded mounts of hosts, and the layout that they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.runtime.cgroup.group import Group
from corral.runtime.cgroup.layout import Layout, Mode, layout
from corral.runtime.linux import mounts

V2 = """\
22 27 0:21 / /proc rw,relatime shared:12 - proc proc rw
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1 = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,relatime shared:14 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,nosuid,relatime shared:15 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,nosuid,relatime shared:16 - cgroup cgroup rw,pids
"""
ROOT = Path("/sys/fs/cgroup")


def of(text: str, controllers: str = "") -> Layout:
    return layout(mounts.parse(text), controllers)


def test_a_pure_v2_host_has_every_controller_in_one_place() -> None:
    found = of(V2, "cpuset cpu io memory hugetlb pids\n")
    assert (found.mode, found.version, found.missing) == (Mode.V2, 2, ())
    assert found.roots == (ROOT,)


def test_a_v2_host_that_keeps_a_controller_back_lacks_it() -> None:
    assert of(V2, "cpu pids").missing == ("memory",)


def test_a_hybrid_host_counts_as_v1() -> None:
    found = of(HYBRID, "hugetlb")
    assert (found.mode, found.version, found.missing) == (Mode.HYBRID, 1, ())
    assert found.controllers["memory"] == ROOT / "memory"
    assert ROOT / "systemd" in found.roots
    assert found.second == ROOT / "unified"
    assert found.second not in found.roots


def test_controllers_that_share_a_hierarchy_are_one_root() -> None:
    found = of(V1)
    assert found.mode is Mode.V1
    assert found.controllers["cpu"] == found.controllers["cpuacct"] == ROOT / "cpu,cpuacct"
    assert len(found.roots) == 3


def test_a_host_without_cgroups_is_told() -> None:
    found = of("22 27 0:21 / /proc rw - proc proc rw\n")
    assert (found.mode, found.missing) == (Mode.NONE, ("cpu", "memory", "pids"))


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_v2_counters_are_read(tmp_path: Path) -> None:
    group = Group(Layout(Mode.V2, dict.fromkeys(("cpu", "memory", "pids"), tmp_path)), "corral-x", "box")
    put(
        tmp_path / "corral-x" / "box",
        cpu__stat="usage_usec 1500\nuser_usec 1000\n",
        memory__current="4096\n",
        memory__peak="8192\n",
        memory__stat="anon 1000\nfile 3000\ninactive_file 2048\n",
        memory__events="low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n",
        pids__current="5\n",
    )
    counted = group.counters()
    assert (counted.cpu_us, counted.memory, counted.memory_peak, counted.pids) == (1500, 4096, 8192, 5)
    assert (counted.cache, counted.oom_kills) == (2048, 2)


def test_v1_counters_are_read_from_their_own_hierarchies(tmp_path: Path) -> None:
    names = ("cpu", "cpuacct", "memory", "pids")
    group = Group(Layout(Mode.V1, {name: tmp_path / name for name in names}), "corral-x", "box")
    put(tmp_path / "cpuacct/corral-x/box", cpuacct__usage="1500000\n")
    put(
        tmp_path / "memory/corral-x/box",
        memory__usage_in_bytes="4096\n",
        memory__max_usage_in_bytes="8192\n",
        memory__stat="inactive_file 7\ntotal_inactive_file 1024\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
    )
    put(tmp_path / "pids/corral-x/box", pids__current="5\n")
    counted = group.counters()
    assert (counted.cpu_us, counted.memory, counted.memory_peak, counted.pids) == (1500, 4096, 8192, 5)
    assert (counted.cache, counted.oom_kills) == (1024, 4)


def test_removing_a_group_leaves_its_neighbours(tmp_path: Path) -> None:
    here = Layout(Mode.V2, dict.fromkeys(("cpu", "memory", "pids"), tmp_path))
    (tmp_path / "corral-x" / "box" / "inner").mkdir(parents=True)
    (tmp_path / "corral-x" / "box2").mkdir()
    Group(here, "corral-x", "box").remove()
    assert sorted(path.name for path in (tmp_path / "corral-x").iterdir()) == ["box2"]
    Group(here, "corral-x", "box").remove()


def test_a_gone_group_has_no_counters(tmp_path: Path) -> None:
    group = Group(Layout(Mode.V2, dict.fromkeys(("cpu", "memory", "pids"), tmp_path)), "corral-x", "box")
    assert not group.exists()
    with pytest.raises(FileNotFoundError):
        group.counters()
