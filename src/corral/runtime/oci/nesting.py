"""What a nested box may do more than others: capabilities, system calls and mounts, as parts of its bundle.

Must not touch the host. All that is given here is given in the box's own user namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: NET_ADMIN and SYS_ADMIN are of use, and runc enters a container of another user by SYS_PTRACE: process 1 has its
#: memory in a user namespace above the box's, out of its reach (paper 006). The other two can do nothing in a user
#: namespace, but runtimes that give their containers Docker's default set fail where they are missing. Never
#: SYS_RESOURCE, which lifts the bounds on namespaces.
CAPABILITIES: Final = ("CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")

#: `clone` with every flag. `clone3` is here because its flags, in memory, are what nobody has to look at any more.
ALLOWED: Final = (
    *("clone", "clone3", "unshare", "setns", "pivot_root", "mount", "umount", "umount2", "mount_setattr"),
    *("fsconfig", "fsmount", "fsopen", "fspick", "move_mount", "open_tree", "open_tree_attr"),
    *("sethostname", "setdomainname"),
)
#: Runtimes start a container without a keyring of its own where the kernel has none, and not where it refuses one.
UNKNOWN: Final = ("add_key", "keyctl", "request_key")

#: The type of btrfs's own ioctls: a box could make subvolumes outside of its disk's limit. Some of this type are of
#: every filesystem: FICLONE, FICLONERANGE and FIDEDUPERANGE.
_BTRFS_TYPE: Final = 0x94
_TYPE_SHIFT: Final = 8
_OF_ALL_FILESYSTEMS: Final = (0x4004_9409, 0x4020_940D, 0xC018_9436)


def capabilities(plain: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a nested box, from a plain one's."""
    return (*plain, *CAPABILITIES)


def profile(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """The seccomp profile of a nested box, from a plain one's."""
    changed = {*ALLOWED, *UNKNOWN, "ioctl"}
    rules = []
    for rule in plain["syscalls"]:
        names = [name for name in rule["names"] if name not in changed]
        if names:
            rules.append({**rule, "names": names})
    rules.append({"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"})
    rules += [{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [test]} for test in _ioctls()]
    return {**plain, "syscalls": rules}


def _ioctls() -> list[Mapping[str, Any]]:
    """Tests of which each lets some ioctls through: all of another type than btrfs's, bit by bit, and three of it."""
    tests: list[Mapping[str, Any]] = []
    for bit in range(8):
        mask = 1 << bit
        value, mask = (_BTRFS_TYPE & mask) ^ mask, mask << _TYPE_SHIFT
        tests.append({"index": 1, "value": mask, "valueTwo": value << _TYPE_SHIFT, "op": "SCMP_CMP_MASKED_EQ"})
    tests += [{"index": 1, "value": number, "op": "SCMP_CMP_EQ"} for number in _OF_ALL_FILESYSTEMS]
    return tests


def mounts(plain: list[Mapping[str, Any]], cgroup_version: int) -> list[Mapping[str, Any]]:
    """Mounts of a nested box: its control groups can be written to. On version 1 those of version 2 beside it.

    Nothing of version 1 is for a box to divide: there is no bound on the number of groups, and 65,535 memory groups
    are all that a host can have.
    """
    target = "/sys/fs/cgroup"
    kept = [mount for mount in plain if mount["destination"] != target]
    fstype = "cgroup" if cgroup_version == 2 else "cgroup2"
    options = ["nosuid", "noexec", "nodev", "rw"]
    return [*kept, {"destination": target, "type": fstype, "source": fstype, "options": options}]
