"""Verdicts over what hosts were seen to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.runtime.cgroup.layout import Layout, Mode
from corral.runtime.contract import HostUnfit
from corral.runtime.network import blocks
from corral.runtime.oci import probe
from corral.runtime.oci.facts import Fact, Verdict
from corral.runtime.oci.settings import OciSettings
from corral.runtime.rootfs import filesystem

ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("6.18.44", Verdict.OK), ("5.19.0-1-amd64", Verdict.OK), ("5.15.0", Verdict.FAIL), ("odd", Verdict.FAIL)],
)
def test_old_kernels_fail(release: str, verdict: Verdict) -> None:
    assert probe.kernel_fact(release).verdict is verdict


def test_every_fact_that_is_not_ok_has_a_remedy(tmp_path: Path) -> None:
    found = [
        probe.root_fact(1000),
        probe.kernel_fact("4.0"),
        probe.runtime_fact("no-such-runtime"),
        probe.guest_fact(tmp_path / "none"),
        probe.cgroup_fact(Layout(Mode.NONE, {})),
        probe.seccomp_fact(""),
        probe.older_filter_fact(drops=True),
        probe.data_fact(tmp_path / "a:b"),
    ]
    assert all(fact.verdict is not Verdict.OK and fact.remedy for fact in found)


def test_a_failed_fact_refuses_the_host_with_its_remedy() -> None:
    with pytest.raises(HostUnfit, match="kernel") as caught:
        probe.require([Fact("user", Verdict.OK, "root"), probe.kernel_fact("4.0")])
    assert "5.19" in caught.value.remedy
    probe.require([Fact("x", Verdict.WARN, "y", "z")])


def test_ids_that_another_program_was_given_are_told() -> None:
    assert probe.ids_fact("me:100000:65536\n").verdict is Verdict.OK
    assert probe.ids_fact(f"me:{blocks.ID_BASE + 5}:10\n").verdict is Verdict.WARN
    assert probe.ids_fact("not a line\n").verdict is Verdict.OK


def test_a_route_into_the_boxes_network_is_told() -> None:
    default = "eth0\t00000000\t01020304\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    inside = "tun0\t000012C6\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    own = "corral7\t070012C6\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    assert probe.network_fact("198.18.0.0/15", ROUTES + default + own).verdict is Verdict.OK
    told = probe.network_fact("198.18.0.0/15", ROUTES + default + inside)
    assert (told.verdict, told.found) == (Verdict.WARN, "198.18.0.0/16 is routed to tun0")


def test_swap_that_cannot_be_limited_is_told() -> None:
    controllers = dict.fromkeys(("cpu", "memory", "pids"), Path("/x"))
    assert probe.cgroup_fact(Layout(Mode.V1, controllers, swap_limit=False)).verdict is Verdict.WARN
    assert probe.cgroup_fact(Layout(Mode.V1, controllers)).verdict is Verdict.OK


def test_a_disk_without_room_for_a_first_start_fails(tmp_path: Path) -> None:
    assert probe.data_fact(tmp_path).verdict is not Verdict.FAIL
    told = probe.data_fact(tmp_path, needs=1 << 60)
    assert told.verdict is Verdict.FAIL
    assert "MiB" in told.remedy


def test_a_first_start_needs_room_only_until_its_pool_is_there(tmp_path: Path) -> None:
    settings = OciSettings(data=tmp_path, guest=tmp_path / "guest")
    first = probe.first_start_needs(settings)
    assert first == (
        filesystem.RESERVE + filesystem.SMALLEST if probe.has_btrfs() and not filesystem.on_btrfs(tmp_path) else 0
    )
    (tmp_path / "pool.img").touch()
    assert probe.first_start_needs(settings) == 0


def test_a_childs_failure_comes_back_as_text() -> None:
    def fail() -> None:
        raise OSError(1, "because")

    assert "because" in probe.in_child(fail)
    assert probe.in_child(lambda: None) == ""
