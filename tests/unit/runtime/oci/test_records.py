"""Frames, records and what a refusal means."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime.cgroup.group import Group
from corral.runtime.cgroup.layout import Layout, Mode
from corral.runtime.contract import BoxSpec, HostExhausted, HostUnfit, Layer, Limits
from corral.runtime.linux import mounts
from corral.runtime.oci import record, wire
from corral.runtime.oci.faults import refused
from corral.runtime.oci.record import Record
from corral.runtime.oci.removal import end

LAYERS = tuple(Layer(f"sha256:{name}", Path(f"/{name}")) for name in "ab")
SPEC = BoxSpec("box", LAYERS[:1], "name", limits=Limits(cpu=0.5), lent=LAYERS[1:])


def test_frames_come_out_however_they_are_cut() -> None:
    whole = b"".join(wire.encode({"id": number, "text": "x" * number}) for number in range(50))
    for size in (1, 3, 7, 1000):
        decoder = wire.Decoder()
        found = [message for at in range(0, len(whole), size) for message in decoder.feed(whole[at : at + size])]
        assert [message["id"] for message in found] == list(range(50))


def test_a_frame_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="frame"):
        wire.Decoder().feed(struct.pack("!I", wire.LONGEST + 1))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Record.of(SPEC, 7)
    record.write(tmp_path, made)
    assert record.read(tmp_path) == made


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "box"}', '{"limits": 1, "user": 2}'])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / record.NAME).write_text(text)
    assert record.read(tmp_path) is None


def test_a_living_process_is_found_again_and_an_ended_one_is_not() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        found = Record.of(SPEC, 1).living(process.pid)
        fd = found.open_process()
        assert fd is not None
        end(fd, Group(Layout(Mode.NONE, {}), "parent", "box"))
        os.close(fd)
        # A zombie, still with its number.
        assert found.open_process() is None
    assert found.open_process() is None


def test_another_process_with_the_same_number_is_not_the_box() -> None:
    found = Record.of(SPEC, 1).living(os.getpid())
    assert replace(found, start=found.start + 1).open_process() is None
    assert replace(found, boot="another").open_process() is None
    fd = found.open_process()
    assert fd is not None
    os.close(fd)


def test_a_full_host_is_exhausted_and_any_other_refusal_is_unfit() -> None:
    assert isinstance(refused("create", errno.ENOSPC, "no"), HostExhausted)
    assert isinstance(refused("create", 0, "clone: Cannot allocate memory"), HostExhausted)
    assert isinstance(refused("create", errno.EPERM, "no"), HostUnfit)


def test_mounts_with_odd_names_are_read() -> None:
    (mount,) = mounts.parse("1 2 0:3 / /a\\040b\\134c rw shared:1 master:2 - ext4 /dev/x rw,discard\n")
    assert (mount.target, mount.fstype, mount.super_options) == ("/a b\\c", "ext4", "rw,discard")


def test_the_launcher_keeps_what_boxes_need_and_drops_the_rest() -> None:
    text = """\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /sys rw - sysfs sysfs rw
4 3 0:4 / /sys/kernel/debug rw - debugfs debugfs rw
5 3 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw
6 5 0:6 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
7 5 0:7 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
8 1 0:8 / /var/lib/docker/overlay2/a/merged rw - overlay overlay rw
9 1 0:9 / /srv/layers rw - overlay overlay rw
10 1 7:0 / /snap/core ro - squashfs /dev/loop0 ro
11 1 7:1 / /var/lib/corral/pool rw - btrfs /dev/loop1 rw
12 1 7:2 / /var/lib/other/pool rw - btrfs /dev/loop2 rw
"""
    dropped = mounts.unneeded(mounts.parse(text), ["/srv/layers/x", "/var/lib/corral"])
    assert dropped == [
        "/var/lib/other/pool",
        "/snap/core",
        "/var/lib/docker/overlay2/a/merged",
        "/sys/kernel/debug",
    ]


def test_v2_is_not_dropped() -> None:
    assert mounts.unneeded(mounts.parse("7 5 0:7 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"), []) == []
