"""What a bundle allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.runtime.contract import MIB, BoxSpec, Limits
from corral.runtime.oci import config


def bundle(
    *, version: int = 1, swap: bool = True, limits: Limits | None = None, nested: bool = False
) -> dict[str, Any]:
    place = config.Place(Path("/root"), "/proc/1/fd/3", "/proc/1/fd/4", 65536, "/corral-x/box", version, swap)
    spec = BoxSpec("box", (), "name", limits=limits or Limits(), env={"A": "b"}, nested=nested)
    return dict(config.bundle(spec, place, config.seccomp_profile(nested=nested)))


def actions(name: str) -> list[str]:
    rules = config.seccomp_profile()["syscalls"]
    return [rule["action"] for rule in rules if name in rule["names"]]


def test_user_and_network_namespaces_are_joined_and_all_others_are_new() -> None:
    found = {entry["type"]: entry.get("path") for entry in bundle()["linux"]["namespaces"]}
    assert found.pop("user") == "/proc/1/fd/3"
    assert found.pop("network") == "/proc/1/fd/4"
    assert found == dict.fromkeys(("pid", "mount", "ipc", "uts", "cgroup"))


@pytest.mark.parametrize(
    "name", ["SYS_ADMIN", "NET_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RESOURCE", "MKNOD", "BPF"]
)
def test_dangerous_capabilities_are_not_given(name: str) -> None:
    for names in bundle()["process"]["capabilities"].values():
        assert f"CAP_{name}" not in names


def test_no_capability_outlives_a_change_of_user() -> None:
    assert {"ambient", "inheritable"}.isdisjoint(bundle()["process"]["capabilities"])


@pytest.mark.parametrize(
    "name",
    ["mount", "umount2", "unshare", "setns", "keyctl", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
     "kexec_load", "init_module", "open_by_handle_at", "move_mount", "pivot_root", "reboot", "fsopen"],
)  # fmt: skip
def test_dangerous_calls_are_refused(name: str) -> None:
    assert actions(name) == ["SCMP_ACT_ERRNO"]


def test_unknown_calls_do_not_exist_and_clone3_is_one() -> None:
    profile = config.seccomp_profile()
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert actions("clone3") == []


def test_clone_is_allowed_without_new_namespaces_only() -> None:
    (rule,) = (rule for rule in config.seccomp_profile()["syscalls"] if "clone" in rule["names"])
    (test,) = rule["args"]
    every_namespace = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
    assert (test["op"], test["value"], test["valueTwo"]) == ("SCMP_CMP_MASKED_EQ", every_namespace, 0)


def test_no_call_is_both_allowed_and_refused() -> None:
    rules = config.seccomp_profile()["syscalls"]
    allowed = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    refused = {name for rule in rules if rule["action"] != "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert not allowed & refused


def test_limits_are_the_cgroups() -> None:
    found = bundle(limits=Limits(cpu=1.5, memory=64 * MIB, pids=77))["linux"]["resources"]
    assert found["cpu"] == {"quota": 150_000}
    assert found["memory"] == {"limit": 64 * MIB, "swap": 64 * MIB, "kernelTCP": 16 * MIB}
    assert found["pids"] == {"limit": 77}


def test_a_kernel_without_a_swap_limit_is_not_asked_for_one() -> None:
    assert "swap" not in bundle(swap=False)["linux"]["resources"]["memory"]


def test_the_cgroup_is_visible_on_v2_and_nothing_of_the_host_is_mounted() -> None:
    targets = {mount["destination"]: mount for mount in bundle(version=2)["mounts"]}
    assert "ro" in targets["/sys/fs/cgroup"]["options"]
    assert "/sys/fs/cgroup" not in {mount["destination"] for mount in bundle()["mounts"]}
    assert not any(mount["type"] == "bind" for mount in targets.values())


def nested_rules(name: str) -> list[dict[str, Any]]:
    return [rule for rule in config.seccomp_profile(nested=True)["syscalls"] if name in rule["names"]]


@pytest.mark.parametrize("name", ["SYS_MODULE", "SYS_RESOURCE", "BPF", "SYS_RAWIO", "DAC_READ_SEARCH"])
def test_dangerous_capabilities_are_not_given_to_a_nested_box(name: str) -> None:
    for names in bundle(nested=True)["process"]["capabilities"].values():
        assert f"CAP_{name}" not in names
        assert "CAP_SYS_ADMIN" in names


@pytest.mark.parametrize("name", ["mount", "clone", "clone3", "unshare", "pivot_root", "fsopen", "mount_setattr"])
def test_a_nested_box_has_what_containers_need(name: str) -> None:
    assert nested_rules(name) == [{"names": nested_rules(name)[0]["names"], "action": "SCMP_ACT_ALLOW"}]


@pytest.mark.parametrize(
    "name",
    ["bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "kexec_load", "init_module", "open_by_handle_at",
     "name_to_handle_at", "reboot", "swapon", "quotactl", "syslog", "acct", "fanotify_init", "settimeofday"],
)  # fmt: skip
def test_dangerous_calls_are_refused_to_a_nested_box(name: str) -> None:
    assert [rule["action"] for rule in nested_rules(name)] == ["SCMP_ACT_ERRNO"]


def test_keyrings_do_not_exist_for_a_nested_box() -> None:
    assert [nested_rules(name) for name in ("keyctl", "add_key", "request_key")] == [[], [], []]


def passes(number: int) -> bool:
    """Whether a nested box may make an ioctl of this number."""
    tests = [rule["args"][0] for rule in nested_rules("ioctl")]
    masked = any(number & t["value"] == t["valueTwo"] for t in tests if t["op"] == "SCMP_CMP_MASKED_EQ")
    return masked or any(number == t["value"] for t in tests if t["op"] == "SCMP_CMP_EQ")


def test_no_ioctl_of_btrfs_reaches_the_disk_of_a_nested_box() -> None:
    assert [number for number in range(0x5000_9400, 0x5000_9500) if passes(number)] == []
    assert all(passes(0x5401 + (kind << 8)) for kind in range(256) if kind + 0x54 != 0x94)
    assert [passes(number) for number in (0x4004_9409, 0x4020_940D, 0xC018_9436)] == [True] * 3


def test_nothing_covers_proc_in_a_nested_box_and_its_groups_can_be_written() -> None:
    for version, fstype in ((1, "cgroup2"), (2, "cgroup")):
        made = bundle(nested=True, version=version)
        assert (made["linux"]["maskedPaths"], made["linux"]["readonlyPaths"]) == ([], [])
        (mount,) = (mount for mount in made["mounts"] if mount["destination"] == "/sys/fs/cgroup")
        assert (mount["type"], "rw" in mount["options"], "ro" in mount["options"]) == (fstype, True, False)


def test_a_nested_box_has_its_oom_score_from_the_launcher() -> None:
    assert "oomScoreAdj" not in bundle(nested=True)["process"]
