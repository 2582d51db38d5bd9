"""What this host offers, as facts with a verdict and a remedy. `corral doctor` prints them, `start` refuses by them.

Limits that depend on the number of boxes are in `capacity`. Must not change the host: what has to be tried for real
is tried in a child with namespaces of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from corral.runtime.cgroup.layout import Layout, Mode, read_layout
from corral.runtime.contract import GIB, MIB, HostUnfit
from corral.runtime.linux import mounts, syscalls
from corral.runtime.network import blocks, firewall
from corral.runtime.network.namespace import IDS_PER_BOX, make_userns
from corral.runtime.oci import capacity, criu
from corral.runtime.oci.facts import Fact, Verdict
from corral.runtime.oci.settings import OciSettings
from corral.runtime.rootfs import filesystem
from corral.runtime.rootfs.steps import BindDisk, BindLayer, MakeUpper, MountOverlay

#: Overlay on id-mapped layers.
OLDEST_KERNEL: Final = (5, 19)
#: The longest data folder whose boxes can still be named in an error and a mount option.
LONGEST_DATA: Final = 200


def facts(settings: OciSettings) -> list[Fact]:
    """Every fact, the decisive ones first. Takes about 50 ms; changes nothing."""
    root = root_fact(os.geteuid())
    if root.verdict is Verdict.FAIL:
        return [root]
    return [
        root,
        kernel_fact(os.uname().release),
        runtime_fact(settings.oci_runtime),
        guest_fact(settings.guest),
        cgroup_fact(read_layout(mounts.current())),
        idmap_fact(settings.data),
        disk_fact(settings),
        program_fact("nft", "install nftables"),
        seccomp_fact(Path("/proc/self/status").read_text()),
        ids_fact(_text("/etc/subuid") + _text("/etc/subgid")),
        network_fact(settings.network, _text("/proc/net/route")),
        forwarding_fact(forwards=firewall.forwarding()),
        older_filter_fact(drops=firewall.older_filter_drops()),
        *capacity.facts(capacity.boxes(_text("/proc/meminfo"))),
        data_fact(settings.data, needs=first_start_needs(settings)),
    ]


def require(found: Iterable[Fact]) -> None:
    """Raise HostUnfit for the first fact that fails."""
    for fact in found:
        if fact.verdict is Verdict.FAIL:
            message = f"cannot run boxes on this host: {fact.name}: {fact.found}"
            raise HostUnfit(message, remedy=fact.remedy)


# ---------------------------------------------------------------- one function per fact


def root_fact(uid: int) -> Fact:
    """Only root can mount, and map ids that are not its own."""
    if uid == 0:
        return Fact("user", Verdict.OK, "root")
    return Fact("user", Verdict.FAIL, f"uid {uid}", "start corral as root")


def kernel_fact(release: str) -> Fact:
    """The kernel's version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version >= OLDEST_KERNEL:
        return Fact("kernel", Verdict.OK, release)
    return Fact("kernel", Verdict.FAIL, release, "boot Linux 5.19 or newer: overlay on id-mapped layers needs it")


def runtime_fact(program: str) -> Fact:
    """The OCI runtime and its version."""
    try:
        done = run([program, "--version"])
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired) as error:
        return Fact("OCI runtime", Verdict.FAIL, f"{program}: {error}", "install crun, or set CORRAL_OCI_RUNTIME")
    line = done.stdout.partition("\n")[0].strip()
    if done.returncode:
        return Fact("OCI runtime", Verdict.FAIL, f"{program} --version ended with {done.returncode}", "install crun")
    return Fact("OCI runtime", Verdict.OK, line or program)


def guest_fact(guest: Path) -> Fact:
    """The guest binary."""
    if guest.is_file() and os.access(guest, os.X_OK):
        return Fact("guest", Verdict.OK, str(guest))
    return Fact("guest", Verdict.FAIL, f"no program at {guest}", "build it (make guest), or set CORRAL_GUEST")


def cgroup_fact(layout: Layout) -> Fact:
    """Where the controllers are."""
    if layout.mode is Mode.NONE or layout.missing:
        found = f"{layout.mode}, without {', '.join(layout.missing)}"
        return Fact("cgroups", Verdict.FAIL, found, "mount cgroup v2, or enable these controllers at boot")
    if not layout.swap_limit:
        remedy = "boot with swapaccount=1, or switch swap off: a box can now swap beyond its memory limit"
        return Fact("cgroups", Verdict.WARN, f"{layout.mode}, without a limit on swap", remedy)
    return Fact("cgroups", Verdict.OK, layout.mode)


def idmap_fact(data: Path) -> Fact:
    """Whether an overlay on an id-mapped layer of the data folder's filesystem works, by doing it in a child."""
    folder = next(path for path in (data, *data.parents) if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".corral-probe-") as name:
            error = in_child(lambda: _try_overlay(name))
    except OSError as problem:
        error = str(problem)
    if not error:
        return Fact("id-mapped overlay", Verdict.OK, f"works on {folder}")
    return Fact("id-mapped overlay", Verdict.FAIL, error, "put the data folder on ext4, xfs or btrfs, on Linux 5.19+")


def disk_fact(settings: OciSettings) -> Fact:
    """What bounds a box's disk."""
    if settings.disk != "image" and has_btrfs():
        return Fact("disk limits", Verdict.OK, "btrfs subvolumes with quotas")
    if shutil.which("mkfs.ext4") is None:
        return Fact("disk limits", Verdict.FAIL, "neither mkfs.btrfs nor mkfs.ext4", "install btrfs-progs")
    remedy = "install btrfs-progs (and load the btrfs module): boxes then start faster"
    return Fact("disk limits", Verdict.WARN, "an ext4 file for each box", remedy)


def memory_fact(settings: OciSettings) -> Fact:
    """Whether memories of suspended devboxes can be kept, by dumping and restoring a process. Takes about 0.5 s."""
    remedy = "run tools/setup.sh, or install criu 4.2; until then suspended devboxes keep their disks only"
    try:
        found = criu.find(settings.criu)
    except criu.NoCriu as problem:
        return Fact("memory of suspended devboxes", Verdict.WARN, str(problem), remedy)
    error = criu.try_out(found)
    if error:
        return Fact("memory of suspended devboxes", Verdict.WARN, error, remedy)
    return Fact("memory of suspended devboxes", Verdict.OK, f"kept by CRIU {found.version}")


def program_fact(name: str, remedy: str) -> Fact:
    """A program that is called."""
    path = shutil.which(name)
    return Fact(name, Verdict.OK, path) if path else Fact(name, Verdict.FAIL, "not installed", remedy)


def seccomp_fact(status: str) -> Fact:
    """Whether the kernel filters system calls."""
    if re.search(r"^Seccomp_filters:", status, re.MULTILINE):
        return Fact("seccomp", Verdict.OK, "filters")
    return Fact("seccomp", Verdict.FAIL, "not in this kernel", "boot a kernel with CONFIG_SECCOMP_FILTER")


def ids_fact(subids: str) -> Fact:
    """Whether another program was given ids of boxes' ranges."""
    last = blocks.ID_BASE + blocks.BLOCKS * blocks.SLOTS_PER_BLOCK * IDS_PER_BOX - 1
    for line in subids.splitlines():
        with contextlib.suppress(ValueError):
            _, first, count = line.split(":")
            if int(first) <= last and int(first) + int(count) > blocks.ID_BASE:
                remedy = f"move that range out of {blocks.ID_BASE}-{last} in /etc/subuid and /etc/subgid"
                return Fact("id ranges", Verdict.WARN, f"{line} meets boxes' ids", remedy)
    return Fact("id ranges", Verdict.OK, f"{blocks.ID_BASE}-{last} are free")


def network_fact(network: str, routes: str) -> Fact:
    """Whether the host already routes addresses of boxes elsewhere. `routes` is the text of /proc/net/route."""
    wanted = ipaddress.IPv4Network(network)
    for line in routes.splitlines()[1:]:
        link, destination, *_, mask = line.split()[:8]
        known = ipaddress.IPv4Network((_address(destination), str(_address(mask))))
        if known.prefixlen and known.overlaps(wanted) and not link.startswith(blocks.LINK_PREFIX):
            remedy = f"remove that route, or give boxes another network than {network}"
            return Fact("addresses", Verdict.WARN, f"{known} is routed to {link}", remedy)
    return Fact("addresses", Verdict.OK, network)


def forwarding_fact(*, forwards: bool) -> Fact:
    """Whether the host forwards packets. Corral switches it on when it starts."""
    found = "on" if forwards else "off; corral switches it on when it starts"
    return Fact("IPv4 forwarding", Verdict.OK, found)


def older_filter_fact(*, drops: bool) -> Fact:
    """Whether an iptables FORWARD chain (Docker's) drops what nobody accepts. Corral adds its accept rules there."""
    if not drops:
        return Fact("iptables", Verdict.OK, "lets boxes' packets through")
    remedy = (
        f"nothing now; after a reload of iptables: iptables -I FORWARD -i {blocks.LINK_PREFIX}+ -j ACCEPT (and -o)"
    )
    return Fact("iptables", Verdict.WARN, "FORWARD drops by default; corral adds accept rules for its links", remedy)


def first_start_needs(settings: OciSettings) -> int:
    """Bytes that must be free on the data folder's disk for the disk pool; 0 when it is there, or is no file."""
    data = settings.data
    given = settings.disk == "image" or settings.pool_size is not None
    there = (data / "pool.img").exists() or any((data / "disks").glob("*.img"))
    return (
        0
        if given or there or not has_btrfs() or filesystem.on_btrfs(data)
        else filesystem.RESERVE + filesystem.SMALLEST
    )


def data_fact(data: Path, *, needs: int = 0) -> Fact:
    """The data folder's disk and name. `needs` is what must be free there, in bytes."""
    folder = next(path for path in (data, *data.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if len(str(data)) > LONGEST_DATA or re.search(r"[:,\\\s]", str(data)):
        remedy = f"use at most {LONGEST_DATA} characters, without colon, comma, backslash and space"
        return Fact("data folder", Verdict.FAIL, str(data), remedy)
    if free < needs:
        remedy = f"free {needs // MIB} MiB, or set CORRAL_DATA to a larger disk"
        return Fact("data folder", Verdict.FAIL, f"{free // MIB} MiB free on {folder}", remedy)
    if free < 10 * GIB:
        return Fact("data folder", Verdict.WARN, f"{free // MIB} MiB free on {folder}", "use a larger disk")
    return Fact("data folder", Verdict.OK, f"{free // GIB} GiB free on {folder}")


# ---------------------------------------------------------------- how


def has_btrfs() -> bool:
    """Whether the kernel has btrfs (or its module is there to be loaded) and the host can make one."""
    if shutil.which("mkfs.btrfs") is None:
        return False
    if "btrfs" in Path("/proc/filesystems").read_text():
        return True
    return any(Path("/lib/modules", os.uname().release, "kernel/fs/btrfs").glob("btrfs.ko*"))


def run(argv: Sequence[str], limit_s: float = 10) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(list(argv), capture_output=True, text=True, timeout=limit_s, check=False)


def in_child(work: Callable[[], None]) -> str:
    """Do `work` in a forked child; "" when it went well, else what it raised."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a forked child must tell and end, whatever happened
            os.write(write, str(error).encode()[:4096])
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return text


def _try_overlay(name: str) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for part in ("layer", "0", "home", "disk", "root"):
        os.mkdir(f"{name}/{part}")
    userns = make_userns(0, blocks.ID_BASE)
    BindLayer(f"{name}/layer", f"{name}/0", 0).execute(lambda _: userns)
    if os.stat(f"{name}/0").st_uid != blocks.ID_BASE:
        message = "the id mapping of a mount has no effect"
        raise OSError(message)
    MakeUpper(f"{name}/home/upper", f"{name}/home/work", {}).execute(lambda _: userns)
    BindDisk(f"{name}/home", f"{name}/disk").execute(lambda _: userns)
    MountOverlay(f"{name}/root", name, ("0",), "disk/upper", "disk/work", blocks.ID_BASE).execute(lambda _: userns)
    with syscalls.file_ids(blocks.ID_BASE):
        os.mkdir(f"{name}/root/made")
    if os.stat(f"{name}/home/upper/made").st_uid:
        message = "the id mapping of a disk has no effect"
        raise OSError(message)


def _address(little_endian: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bytes.fromhex(little_endian)[::-1])


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return ""
