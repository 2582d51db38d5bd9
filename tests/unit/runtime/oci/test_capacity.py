"""Verdicts over limits of the kernel, for the number of boxes that a machine could hold."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.runtime.oci import capacity
from corral.runtime.oci.facts import Fact, Verdict

INFINITY = resource.RLIM_INFINITY


def test_the_memory_says_how_many_boxes_a_machine_could_hold() -> None:
    assert capacity.boxes("MemTotal:       25165824 kB\nMemFree: 1 kB\n") == 6144
    assert capacity.boxes("MemTotal:   524288 kB\n") == 128
    assert capacity.boxes("MemTotal: 99999999999 kB\n") < 66_000
    assert capacity.boxes("") == 1


LIMITS: list[tuple[Callable[[int], Fact], int, int, str]] = [
    (lambda most: capacity.pids_fact(most, 6000), 32768, 65536, "sysctl kernel.pid_max=4194304"),
    (lambda most: capacity.threads_fact(most, 6000), 60000, 192536, "sysctl kernel.threads-max=65536"),
    (lambda most: capacity.terminals_fact(most, 1024, 6000), 4096, 7024, "sysctl kernel.pty.max=8192"),
    (lambda most: capacity.keys_fact(most, 6000), 200, 1_000_000, "sysctl kernel.keys.root_maxkeys=16384"),
    (lambda most: capacity.flows_fact(most, 6000), 65536, 262144, "sysctl net.netfilter.nf_conntrack_max=131072"),
    (
        lambda most: capacity.neighbours_fact(most, 6000),
        1024,
        32768,
        "sysctl " + " ".join(f"net.ipv4.neigh.default.gc_thresh{n}={8192 << (n - 1)}" for n in (1, 2, 3)),
    ),
    (capacity.instances_fact, 8, 128, "sysctl fs.inotify.max_user_instances=512"),
    (capacity.watches_fact, 4096, 8192, "sysctl fs.inotify.max_user_watches=131072"),
    (
        lambda most: capacity.files_fact((16, most), 6000),
        4096,
        8048,
        "LimitNOFILE=8192 in the unit, or ulimit -Hn 8192",
    ),
    (
        lambda most: capacity.processes_fact((16, most)),
        512,
        4096,
        "LimitNPROC=infinity in the unit, or ulimit -Hu unlimited",
    ),
]


@pytest.mark.parametrize(("limit", "little", "enough", "remedy"), LIMITS)
def test_a_limit_that_is_too_small_is_told_with_what_raises_it(
    limit: Callable[[int], Fact], little: int, enough: int, remedy: str
) -> None:
    told = limit(little)
    assert (told.verdict, told.remedy) == (Verdict.WARN, remedy)
    assert str(little if told.name != "terminals" else little - 1024) in told.found
    assert (limit(enough).verdict, limit(enough).remedy) == (Verdict.OK, "")


def test_the_switch_that_nested_boxes_share_with_the_host_is_told_when_it_is_on() -> None:
    told = capacity.tunnels_fact(1)
    assert (told.verdict, "CORRAL_NESTED=off" in told.remedy) == (Verdict.WARN, True)
    assert [capacity.tunnels_fact(switch).verdict for switch in (0, None)] == [Verdict.OK, Verdict.OK]


def test_a_limit_that_this_kernel_has_not_is_no_problem(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    for kind in ("user", "net", "mnt", "pid", "ipc", "uts", "cgroup"):
        (user / f"max_{kind}_namespaces").write_text("100000\n")
    found = capacity.facts(6000, tmp_path)
    assert {fact.name for fact in found if fact.verdict is not Verdict.OK} <= {"open files", "user processes"}
    assert capacity.files_fact((1, INFINITY), 6000).verdict is Verdict.OK
    assert capacity.processes_fact((1, INFINITY)).verdict is Verdict.OK


def test_a_host_without_namespaces_of_a_kind_fails(tmp_path: Path) -> None:
    for kind in ("user", "net", "mnt", "pid", "ipc", "uts", "cgroup"):
        (tmp_path / f"max_{kind}_namespaces").write_text("0\n" if kind == "user" else "100\n")
    verdicts = [fact.verdict for fact in capacity.namespace_facts(tmp_path, 6000)]
    assert verdicts == [Verdict.FAIL] + [Verdict.WARN] * 6


def test_every_limit_of_this_host_is_judged() -> None:
    found: list[Fact] = capacity.facts(6000)
    assert {"filter of tunnels", "terminals", "tracked connections", "neighbours", "kernel keys of root", "tasks"} <= {
        fact.name for fact in found
    }
    assert all(fact.remedy for fact in found if fact.verdict is not Verdict.OK)
