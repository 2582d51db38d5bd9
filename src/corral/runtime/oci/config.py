"""The OCI bundle of a box, as data: namespaces, mounts, capabilities, limits, and the seccomp profile.

Owns what a box may do. Must not touch the host: paths and numbers are given, the launcher writes the result.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from corral.runtime.contract import MIB, BoxSpec, Limits
from corral.runtime.network.namespace import IDS_PER_BOX
from corral.runtime.oci import nesting

#: Where the guest is in the box. The binary is owned by host root, outside the box's ids: readable by nobody there,
#: so process 1 is not dumpable and the box's root cannot trace it (the kernel's would_dump rule).
GUEST_TARGET: Final = "/run/corral/guest"

#: Docker's default set without MKNOD (no device can be made in a user namespace) and without AUDIT_WRITE.
CAPABILITIES: Final = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)

#: Kernel files that tell of the host or steer it. Covered for the box; most are closed to its root anyhow.
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    # Names of the pools' files on the host.
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    # What every other box uses of the disk.
    "/sys/fs/btrfs",
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

SHM_SIZE: Final = 64 * MIB
#: Part of a box's memory that may wait in its sockets, on cgroup version 1.
SOCKET_SHARE: Final = 4
CPU_PERIOD_US: Final = 100_000
#: The kernel kills a box's processes before the server's and the launcher's.
OOM_SCORE: Final = 300
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a box is on the host: what its bundle must point to."""

    root: Path
    user_namespace: str
    network_namespace: str
    id_base: int
    cgroup: str
    cgroup_version: int
    swap_limit: bool


def seccomp_profile(*, nested: bool = False) -> Mapping[str, Any]:
    """The profile of seccomp.json for this machine: unknown calls get ENOSYS, dangerous ones EPERM.

    32-bit calls of x86 are not in it and end the caller: libseccomp lets `socketcall` make a socket of every family as
    soon as one family is allowed, and those of virtual machines (AF_VSOCK) know no network namespace.
    """
    profile = json.loads(resources.files("corral.runtime.oci").joinpath("seccomp.json").read_text())
    architectures: Mapping[str, list[str]] = profile["architectures"]
    profile["architectures"] = architectures.get(platform.machine(), [])
    return nesting.profile(profile) if nested else dict(profile)


def bundle(spec: BoxSpec, place: Place, seccomp: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of a box."""
    mapping = {"containerID": 0, "hostID": place.id_base, "size": IDS_PER_BOX}
    return {
        "ociVersion": "1.0.0",
        "root": {"path": str(place.root), "readonly": False},
        "hostname": spec.hostname,
        "process": process(spec),
        "mounts": nesting.mounts(mounts(place), place.cgroup_version) if spec.nested else mounts(place),
        "linux": {
            "namespaces": [
                {"type": "user", "path": place.user_namespace},
                {"type": "network", "path": place.network_namespace},
                *({"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")),
            ],
            # The namespace has this map already; runc 1.1 asks for it all the same.
            "uidMappings": [mapping],
            "gidMappings": [mapping],
            "cgroupsPath": place.cgroup,
            "resources": resources_of(
                spec.limits, swap_limit=place.swap_limit, socket_limit=place.cgroup_version == 1
            ),
            # The root of a nested box could take the covers away, and they would keep containers from a /proc of their
            # own. What is below is closed to it by its ids, and read-only by them.
            "maskedPaths": [] if spec.nested else list(MASKED),
            "readonlyPaths": [] if spec.nested else list(READ_ONLY),
            "seccomp": dict(seccomp),
        },
    }


def process(spec: BoxSpec) -> Mapping[str, Any]:
    """Process 1: the guest, as the box's root, with the listening socket as descriptor 3."""
    env = {"PATH": PATH, **spec.env}
    allowed = nesting.capabilities(CAPABILITIES) if spec.nested else CAPABILITIES
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "args": [GUEST_TARGET],
        "env": [f"{name}={value}" for name, value in env.items()],
        # No inheritable or ambient ones: a program that changes its user must lose them.
        "capabilities": {kind: list(allowed) for kind in ("bounding", "effective", "permitted")},
        # sudo is a set-user-id program.
        "noNewPrivileges": False,
        # A nested box has it from the launcher.
        **({} if spec.nested else {"oomScoreAdj": OOM_SCORE}),
    }


def mounts(place: Place) -> list[Mapping[str, Any]]:
    """What is mounted in the box over its root filesystem."""
    quiet = ["nosuid", "noexec", "nodev"]
    found: list[Mapping[str, Any]] = [
        _mount("/proc", "proc", "proc", *quiet),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/shm", "tmpfs", "shm", *quiet, "mode=1777", f"size={SHM_SIZE}"),  # noqa: S108 - the box's
        _mount("/dev/mqueue", "mqueue", "mqueue", *quiet),
        _mount("/sys", "sysfs", "sysfs", *quiet, "ro"),
    ]
    # Language runtimes read their limits there. On v1 it would be one mount for each controller: 2 ms and ten mounts.
    if place.cgroup_version == 2:
        found.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", *quiet, "ro"))
    return found


def resources_of(limits: Limits, *, swap_limit: bool, socket_limit: bool) -> Mapping[str, Any]:
    """The cgroup's limits. The swap limit is of memory and swap together: equal to memory, it means no swap.

    Version 1 counts what waits in sockets apart from memory, and without a limit of its own not at all.
    """
    memory = {"limit": limits.memory, **({"swap": limits.memory} if swap_limit else {})}
    if socket_limit:
        memory["kernelTCP"] = limits.memory // SOCKET_SHARE
    return {
        # The period is the kernel's own: to write it as well would make the kernel walk all groups once more.
        "cpu": {"quota": max(1000, round(limits.cpu * CPU_PERIOD_US))},
        "memory": memory,
        "pids": {"limit": limits.pids},
    }


def _mount(target: str, fstype: str, source: str, *options: str) -> Mapping[str, Any]:
    return {"destination": target, "type": fstype, "source": source, "options": list(options)}
