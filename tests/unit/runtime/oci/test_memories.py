"""What a dump of a box names instead of holding it, by the box's list of mounts."""

from __future__ import annotations

import pytest

from corral.runtime.linux import mounts
from corral.runtime.oci.memories import Mounted, Undumpable

PLAIN = """\
599 400 0:53 / / rw,relatime - overlay overlay rw
600 599 0:60 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
601 599 0:61 / /dev rw,nosuid - tmpfs tmpfs rw,size=64k
602 601 0:6 /null /dev/null rw,nosuid,noexec,relatime - devtmpfs devtmpfs rw
603 599 0:62 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
605 599 8:1 /data/bin/guest-1234 /run/corral/guest ro,nosuid,nodev,relatime - ext4 /dev/vda rw
"""
GROUPS = "604 603 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("text", "groups"), [(PLAIN, []), (PLAIN + GROUPS, ["mnt[/sys/fs/cgroup]:groups"])], ids=["version-1", "version-2"]
)
def test_the_guest_devices_and_control_groups_are_the_hosts(text: str, groups: list[str]) -> None:
    found = Mounted.of(mounts.parse(text))
    assert found.guest == "guest-1234"
    assert found.devices == {"/dev/null": "/dev/null"}
    assert found.externals() == ["mnt[/run/corral/guest]:guest", "mnt[/dev/null]:-dev-null", *groups]


def test_a_mount_that_nobody_expected_is_in_no_dump() -> None:
    with pytest.raises(Undumpable, match=r"mounts of its own \(/srv/x\)"):
        Mounted.of(mounts.parse(PLAIN + "700 599 0:70 / /srv/x rw - tmpfs none rw\n"))
