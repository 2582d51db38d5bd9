"""Kernel limits that end before the memory does: how many boxes this machine could hold, and what each limit allows.

Owns what a box takes of each limit, and what else all namespaces share and `/proc/sys` tells of. A limit that is too
small is a warning with its remedy, never a refusal: the host can run fewer boxes. Must not change a limit.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Final

from corral.runtime.contract import MIB, Limits
from corral.runtime.network import blocks
from corral.runtime.oci.facts import Fact, Verdict

#: Memory of the host for each box that it could hold: an idle one takes 2 MiB, and one that works a little more.
BOX_MEMORY: Final = 4 * MIB

#: What a box takes. Tasks: one when it is idle, with some commands a handful. Flows: the connections of all boxes are
#: tracked in the host's network namespace, where their addresses are translated. Keys: the OCI runtime makes a session
#: keyring for each box, of the host's root; commands in a box cannot make any. Neighbours: links of boxes have no ARP,
#: but networks of containers inside of them do, and the kernel has one table for all network namespaces.
TASKS: Final = 10
FLOWS: Final = 16
KEYS: Final = 2
TERMINALS: Final = 1
NEIGHBOURS: Final = 4

#: What the host and the server take beside the boxes.
_HOST_TASKS: Final = 4096
_HOST_KEYS: Final = 1024
_HOST_FILES: Final = 2048
_HOST_NEIGHBOURS: Final = 1024

#: Of inotify, what the tools of one box's user want: a watching compiler takes one instance, an editor's folder
#: thousands of watches. Each box counts for itself.
INSTANCES: Final = 128
WATCHES: Final = 8192

_MAX_PID: Final = 4_194_304


def boxes(meminfo: str) -> int:
    """How many boxes a machine with this /proc/meminfo could hold."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    memory = int(match[1]) * 1024 if match else 0
    return max(1, min(memory // BOX_MEMORY, blocks.BLOCKS * blocks.SLOTS_PER_BLOCK))


def facts(wanted: int, proc: Path = Path("/proc/sys")) -> list[Fact]:
    """Every limit, for `wanted` boxes."""
    kernel = proc / "kernel"
    return [
        *namespace_facts(proc / "user", wanted),
        files_fact(resource.getrlimit(resource.RLIMIT_NOFILE), wanted),
        processes_fact(resource.getrlimit(resource.RLIMIT_NPROC)),
        pids_fact(_number(kernel / "pid_max"), wanted),
        threads_fact(_number(kernel / "threads-max"), wanted),
        terminals_fact(_number(kernel / "pty/max"), _number(kernel / "pty/reserve"), wanted),
        keys_fact(_number(kernel / "keys/root_maxkeys"), wanted),
        flows_fact(_number(proc / "net/netfilter/nf_conntrack_max"), wanted),
        neighbours_fact(_number(proc / "net/ipv4/neigh/default/gc_thresh3"), wanted),
        tunnels_fact(_number(proc / "net/netfilter/nf_hooks_lwtunnel")),
        instances_fact(_number(proc / "fs/inotify/max_user_instances")),
        watches_fact(_number(proc / "fs/inotify/max_user_watches")),
    ]


def namespace_facts(folder: Path, wanted: int) -> list[Fact]:
    """How many namespaces of each kind the host allows."""
    found = []
    for kind in ("user", "net", "mnt", "pid", "ipc", "uts", "cgroup"):
        most = int((folder / f"max_{kind}_namespaces").read_text())
        name = f"{kind} namespaces"
        if most >= wanted:
            found.append(Fact(name, Verdict.OK, str(most)))
        else:
            verdict = Verdict.FAIL if most == 0 else Verdict.WARN
            remedy = f"sysctl user.max_{kind}_namespaces={10 * wanted}"
            found.append(Fact(name, verdict, f"at most {most}, of {wanted} boxes that fit into the memory", remedy))
    return found


def files_fact(limits: tuple[int, int], wanted: int) -> Fact:
    """How many files the server may open: one for each box, one for each connection. It takes what it may."""
    _, hard = limits
    enough = wanted + _HOST_FILES
    if hard == resource.RLIM_INFINITY or hard >= enough:
        return Fact("open files", Verdict.OK, "no limit" if hard == resource.RLIM_INFINITY else str(hard))
    remedy = f"LimitNOFILE={_rounded(enough)} in the unit, or ulimit -Hn {_rounded(enough)}"
    return Fact("open files", Verdict.WARN, f"at most {hard}, {enough} for {wanted} boxes", remedy)


def processes_fact(limits: tuple[int, int]) -> Fact:
    """How many processes the server's limit lets one box have. The server takes what it may."""
    _, hard = limits
    pids = Limits().pids
    if hard == resource.RLIM_INFINITY or hard >= pids:
        return Fact("user processes", Verdict.OK, "no limit" if hard == resource.RLIM_INFINITY else str(hard))
    remedy = "LimitNPROC=infinity in the unit, or ulimit -Hu unlimited"
    return Fact("user processes", Verdict.WARN, f"at most {hard} in a box, which may have {pids}", remedy)


def pids_fact(most: int | None, wanted: int) -> Fact:
    """How many ids of tasks the host has."""
    enough = TASKS * wanted + _HOST_TASKS
    return _enough("process ids", most, enough, wanted, f"sysctl kernel.pid_max={_MAX_PID}")


def threads_fact(most: int | None, wanted: int) -> Fact:
    """How many tasks the host can have at once."""
    enough = TASKS * wanted + _HOST_TASKS
    return _enough("tasks", most, enough, wanted, f"sysctl kernel.threads-max={_rounded(enough)}")


def terminals_fact(most: int | None, reserve: int | None, wanted: int) -> Fact:
    """How many terminals all boxes can have open: what is not kept for the host's own."""
    kept = reserve or 0
    enough = TERMINALS * wanted
    left = None if most is None else max(0, most - kept)
    return _enough("terminals", left, enough, wanted, f"sysctl kernel.pty.max={_rounded(enough + kept)}")


def keys_fact(most: int | None, wanted: int) -> Fact:
    """How many keyrings the host's root can have. The limit of other users, kernel.keys.maxkeys, meets no box."""
    enough = KEYS * wanted + _HOST_KEYS
    return _enough("kernel keys of root", most, enough, wanted, f"sysctl kernel.keys.root_maxkeys={_rounded(enough)}")


def flows_fact(most: int | None, wanted: int) -> Fact:
    """How many connections of all boxes the host can track at once; over it new ones are dropped."""
    enough = FLOWS * wanted
    remedy = f"sysctl net.netfilter.nf_conntrack_max={_rounded(enough)}"
    if most is None:
        return Fact("tracked connections", Verdict.OK, "not loaded yet; see again when corral serves")
    return _enough("tracked connections", most, enough, wanted, remedy)


def neighbours_fact(most: int | None, wanted: int) -> Fact:
    """How many neighbours by ARP the host and all boxes can know together; over it nobody finds a new one."""
    enough = NEIGHBOURS * wanted + _HOST_NEIGHBOURS
    top = _rounded(enough)
    thresholds = " ".join(f"net.ipv4.neigh.default.gc_thresh{level}={top >> (3 - level)}" for level in (1, 2, 3))
    return _enough("neighbours", most, enough, wanted, f"sysctl {thresholds}")


def tunnels_fact(switch: int | None) -> Fact:
    """Whether packets of lightweight tunnels pass the packet filter: one switch for all namespaces, which stays on."""
    name = "filter of tunnels"
    if not switch:
        return Fact(name, Verdict.OK, "off" if switch == 0 else "none in this kernel")
    found = "on, by the host or by a nested box: the host's own lightweight tunnels (SRv6, ILA), if any, are filtered"
    return Fact(
        name, Verdict.WARN, found, "reboot switches it off; CORRAL_NESTED=off keeps boxes from switching it on"
    )


def instances_fact(most: int | None) -> Fact:
    """Watchers of files in boxes count per user id; every box has its own ids."""
    remedy = f"sysctl fs.inotify.max_user_instances={4 * INSTANCES}"
    return _for_each("inotify instances", most, INSTANCES, remedy)


def watches_fact(most: int | None) -> Fact:
    """As instances, for the folders that they watch."""
    return _for_each("inotify watches", most, WATCHES, f"sysctl fs.inotify.max_user_watches={16 * WATCHES}")


def _enough(name: str, most: int | None, enough: int, wanted: int, remedy: str) -> Fact:
    if most is None:
        return Fact(name, Verdict.OK, "no limit in this kernel")
    if most >= enough:
        return Fact(name, Verdict.OK, str(most))
    return Fact(
        name, Verdict.WARN, f"at most {most}; {enough} for the {wanted} boxes that fit into the memory", remedy
    )


def _for_each(name: str, most: int | None, enough: int, remedy: str) -> Fact:
    if most is None or most >= enough:
        return Fact(name, Verdict.OK, "none in this kernel" if most is None else f"{most} for each user of a box")
    return Fact(name, Verdict.WARN, f"{most} for each user of a box", remedy)


def _rounded(number: int) -> int:
    """The next power of two: room for more than is asked for now."""
    return 1 << (number - 1).bit_length()


def _number(path: Path) -> int | None:
    """What the kernel says there; None when it has no such limit."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None
