"""What a box takes hurts the box alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench.leftovers import gone

from corral.runtime.contract import (
    GIB,
    MIB,
    BoxExhausted,
    BoxStatus,
    BoxUnresponsive,
    ExecSpec,
    HostExhausted,
    Limits,
)
from corral.runtime.linux import btrfs
from corral.runtime.oci.settings import OciSettings
from corral.runtime.rootfs import filesystem
from tests.integration.oci.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]


async def test_a_memory_hog_is_killed_and_its_box_lives(bench: Bench) -> None:
    await bench.box("hog", Limits(memory=128 * MIB))
    await bench.box("other")
    ran = await bench.sh("hog", "python3 -c 'b = bytearray(600 << 20); print(len(b))'")
    assert ran.code == 137
    assert (await bench.sh("hog", "echo lives")).stdout == "lives\n"
    usage = await bench.runtime.usage("hog")
    assert usage.oom_kills >= 1
    assert usage.memory_peak <= 129 * MIB
    assert (await bench.runtime.usage("other")).oom_kills == 0


async def test_a_fork_bomb_stays_in_its_box(bench: Bench) -> None:
    await bench.box("bomb", Limits(pids=100))
    await bench.box("other")
    bomb = asyncio.create_task(bench.sh("bomb", "for n in $(seq 1000); do sleep 20 & done 2>/dev/null; wait"))
    await asyncio.sleep(1)
    began = time.monotonic()
    assert (await bench.sh("other", "echo fine")).stdout == "fine\n"
    assert time.monotonic() - began < 2
    assert (await bench.runtime.usage("bomb")).pids <= 100
    await bench.runtime.destroy("bomb")
    assert (await bomb).result.lost


@pytest.mark.parametrize("disk", ["btrfs", "image"])
async def test_a_full_disk_is_the_boxes_own(bench: Bench, disk: str) -> None:
    await bench.reopen(disk=disk)
    await bench.box("full", Limits(disk=64 * MIB))
    await bench.box("other", Limits(disk=64 * MIB))
    ran = await bench.sh("full", "dd if=/dev/urandom of=/tmp/big bs=1M count=200 conv=fsync", "root")
    assert ran.code != 0
    assert "quota" in ran.stderr.lower() or "space" in ran.stderr.lower()
    assert (await bench.sh("full", "echo lives")).stdout == "lives\n"
    assert 40 * MIB < (await bench.runtime.usage("full")).disk <= 68 * MIB
    assert (await bench.sh("other", "dd if=/dev/zero of=/tmp/x bs=1M count=8 conv=fsync", "root")).code == 0
    # Room comes back, and the box goes on.
    freed = await bench.sh("full", "rm /tmp/big; sync; sleep 1; echo again > /tmp/y && cat /tmp/y", "root")
    assert freed.stdout == "again\n"
    await bench.clear()


async def test_a_copy_of_a_full_disk_starts_also_where_shared_space_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Quotas as kernels before 6.7 have them: a copy counts what it shares, and is at its limit from the first.
    monkeypatch.setattr(btrfs, "BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA", btrfs.BTRFS_QUOTA_CTL_ENABLE)
    await bench.reopen(data=bench.settings.data.parent / "older")
    await bench.box("full", Limits(disk=64 * MIB))
    await bench.sh("full", "dd if=/dev/urandom of=/tmp/big bs=1M count=200", "root")
    await bench.runtime.snapshot("full", "snp_full")
    await bench.runtime.create(replace(bench.spec("copy", Limits(disk=64 * MIB)), origin="snp_full"))
    assert (await bench.runtime.usage("copy")).disk > 60 * MIB
    assert (await bench.sh("copy", "hostname; cat /etc/hostname")).stdout == "copy-host\n" * 2
    more = await bench.sh("copy", "dd if=/dev/urandom of=/tmp/more bs=1M count=12 conv=fsync", "root")
    assert "quota" in more.stderr.lower()
    freed = await bench.sh("copy", "rm /tmp/big /tmp/more; sync; echo again > /tmp/y && cat /tmp/y", "root")
    assert freed.stdout == "again\n"
    await bench.runtime.forget_snapshot("snp_full")


async def test_one_box_cannot_fill_the_pool_for_all(settings: OciSettings) -> None:
    bench = Bench(replace(settings, pool_size=GIB))
    await bench.runtime.start()
    try:
        await bench.box("full", Limits(disk=8 * GIB))
        await bench.box("other")
        # In one piece, then in small ones.
        await bench.sh(
            "full", "fallocate -l 2G /tmp/a; for n in $(seq 200); do fallocate -l 16M /tmp/b$n; done", "root"
        )
        assert (await bench.sh("full", "head -c 32M /dev/urandom > /tmp/c", "root")).code != 0
        assert filesystem.left(bench.places.data / "pool") < 32 * MIB
        # What others have is copied and removed all the same; what wants room of its own is refused whole.
        await bench.runtime.snapshot("other", "snp_other")
        await bench.runtime.destroy("other")
        with pytest.raises(HostExhausted):
            await bench.box("new")
        assert [box.id for box in await bench.runtime.boxes()] == ["full"]
        await bench.runtime.forget_snapshot("snp_other")
        assert (await bench.sh("full", "rm /tmp/a /tmp/b*; sync", "root")).code in {0, 1}
        await bench.box("new")
        assert (await bench.sh("new", "head -c 200M /dev/urandom > /tmp/x && sync")).code == 0
        await bench.clear()
    finally:
        await bench.clear()
        await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_a_busy_loop_gets_its_share_of_a_core(bench: Bench) -> None:
    await bench.box("busy", Limits(cpu=0.5))
    ran = await bench.sh("busy", "timeout 2 sh -c 'while :; do :; done'")
    assert ran.code == 124
    used = (await bench.runtime.usage("busy")).cpu_us
    assert 300_000 < used < 1_600_000


#: Busy, but every process has its turns.
SPIN = "import os\nfor _ in range(20):\n  if not os.fork():\n    while True: pass"
#: The box's root takes process 1's turns on the processor: the surest of the ways in which it gets none.
STARVE = f"import os\nos.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))\n{SPIN}"
#: A fork bomb that works: every task of the box is taken, and all of them spin.
BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
#: Memory is taken, killed for, and taken again.
THRASH = "import os\nwhile True:\n  if not os.fork():\n    x = b'x'\n    while True: x += x\n  os.wait()"


@pytest.mark.parametrize("load", [STARVE, BOMB, THRASH], ids=["starve", "bomb", "thrash"])
async def test_a_guest_without_turns_is_not_one_that_hangs(bench: Bench, load: str) -> None:
    await bench.box("busy", Limits(cpu=0.25, memory=256 * MIB, pids=1000))
    await bench.runtime.execute("busy", ExecSpec("load", ("python3", "-c", load), user="root"))
    await asyncio.sleep(1)
    starved = 0
    for _ in range(3):
        try:
            await bench.runtime.ping("busy", 1)
        except BoxExhausted:
            starved += 1
        await asyncio.sleep(0.5)
    assert starved > 0 or load != STARVE
    assert (await bench.runtime.inspect("busy")).status is BoxStatus.RUNNING
    async with asyncio.timeout(5):
        await bench.runtime.destroy("busy")


async def test_a_guest_that_is_stopped_hangs_also_in_a_busy_box(bench: Bench) -> None:
    box = await bench.box("busy", Limits(cpu=0.25))
    await bench.runtime.execute("busy", ExecSpec("load", ("python3", "-c", SPIN)))
    await asyncio.sleep(1)
    os.kill(box.pid, signal.SIGSTOP)
    await asyncio.sleep(3)  # it too needs a turn to stop
    with pytest.raises(BoxUnresponsive):
        await bench.runtime.ping("busy", 1)


async def test_shared_memory_is_bounded(bench: Bench) -> None:
    await bench.box("box", Limits(memory=GIB))
    assert (await bench.sh("box", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200")).code != 0
    assert (await bench.runtime.inspect("box")).status is BoxStatus.RUNNING


async def test_a_data_folder_on_btrfs_needs_no_pool_of_its_own(settings: OciSettings, tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(GIB)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        bench = Bench(replace(settings, data=folder / "data"))
        await bench.runtime.start()
        await bench.box("box", Limits(disk=32 * MIB))
        ran = await bench.sh("box", "dd if=/dev/urandom of=/tmp/big bs=1M count=100 conv=fsync", "root")
        assert "quota" in ran.stderr.lower()
        await bench.clear()
        await bench.runtime.close()
        assert not (folder / "data" / "pool.img").exists()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
