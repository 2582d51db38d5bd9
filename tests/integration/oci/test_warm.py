"""A box that was prepared ahead is like any other, and leaves as little behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from bench.leftovers import gone

from corral.runtime.cgroup.layout import read_layout
from corral.runtime.contract import MIB, BoxExists, BoxSpec, BoxStatus, DeathReason, Limits
from corral.runtime.linux import mounts
from corral.runtime.oci import record
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import Bench
from tests.integration.oci.test_life import kill, start_owner

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

#: What a box can see of itself, less what is different in each: its address, its name, process numbers, and times.
LOOK = r"""
hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; getent hosts $(hostname); sudo -n hostname
id; env | grep -v '^_='; pwd; ls -la ~ | awk '{print $1, $3, $4, $9}'; tail -3 /etc/passwd /etc/group
cut -d' ' -f3,5-6 /proc/self/mountinfo | awk '{print $2, $3}'; cat /proc/self/cgroup; ulimit -a
grep -E 'Cap|Seccomp|NoNewPrivs' /proc/1/status /proc/self/status; cat /proc/1/oom_score_adj
ps -e -o comm=; df --output=size,target / /dev/shm; ip -o link | awk '{print $2, $3}' | cut -d@ -f1
ls -l /proc/1/fd 2>&1 | head -1; sudo -n cat /proc/1/environ 2>&1 | head -1
"""


@pytest.fixture
def settings(settings: OciSettings) -> OciSettings:
    return replace(settings, warm=2)


@pytest.fixture
async def warm(bench: Bench) -> Bench:
    """A bench whose pool is full."""
    bench.runtime.expect(bench.spec("x").layers)
    await full(bench)
    return bench


async def until(true: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def prepared(bench: Bench) -> list[record.Record]:
    """Boxes that nobody has claimed and whose process 1 runs."""
    found = (record.read(folder) for folder in bench.places.prepared.iterdir())
    return [each for each in found if each is not None and each.pid]


async def full(bench: Bench, size: int = 2) -> None:
    await until(lambda: len(prepared(bench)) == size)
    await asyncio.sleep(0.05)  # the newest one's guest is being greeted


def record_of(bench: Bench, box: str) -> record.Record:
    found = record.read(bench.places.box(box))
    assert found is not None
    return found


async def test_a_claimed_box_looks_like_one_that_was_made_for_its_devbox(warm: Bench) -> None:
    spec = replace(warm.spec("same"), hostname="same-host", env={**warm.spec("same").env, "MINE": "yes"})
    waiting = {each.handle for each in prepared(warm)}
    await warm.runtime.create(spec)
    assert record_of(warm, "same").handle in waiting
    claimed = await warm.sh("same", LOOK)
    await warm.runtime.destroy("same")
    await warm.reopen(warm=0)
    await warm.runtime.create(spec)
    assert record_of(warm, "same").handle == "same"
    made = await warm.sh("same", LOOK)
    assert claimed.stdout.splitlines() == made.stdout.splitlines()
    assert "MINE=yes" in made.stdout
    assert made.stdout.startswith("same-host\nsame-host\n")


async def test_a_claim_takes_one_and_the_pool_fills_again(warm: Bench) -> None:
    before = {each.handle for each in prepared(warm)}
    for number in range(3):
        await warm.box(f"box{number}")
    await full(warm)
    assert before.isdisjoint(each.handle for each in prepared(warm))
    assert {box.id for box in await warm.runtime.boxes()} == {"box0", "box1", "box2"}


@pytest.mark.parametrize("memory", [96 * MIB, 4096 * MIB])
async def test_a_claimed_box_has_the_limits_that_were_asked_for(warm: Bench, memory: int) -> None:
    await warm.box("box", Limits(cpu=0.5, memory=memory, disk=64 * MIB, pids=48))
    assert record_of(warm, "box").handle != "box"
    usage = await warm.runtime.usage("box")
    assert usage.limits == Limits(cpu=0.5, memory=memory, disk=64 * MIB, pids=48)
    # In the kernel, as a box has them that was made with these.
    handle = record_of(warm, "box").handle
    await warm.reopen(warm=0)
    await warm.box("cold", usage.limits)
    assert kernel_limits(warm, handle) == kernel_limits(warm, "cold")
    ran = await warm.sh("box", "head -c 100M /dev/zero > big; stat -c %s big")
    assert "Disk quota" in ran.stderr or "No space" in ran.stderr
    assert int(ran.stdout) <= 64 * MIB
    ran = await warm.sh("box", "for i in $(seq 100); do sleep 9 & done; true")
    assert "fork" in ran.stderr
    # Within the greater limit, over the lesser one.
    ran = await warm.sh("box", "head -c 200M /dev/zero | tail | wc -c", "root")
    assert (ran.stdout.strip() == str(200 * MIB)) == (memory > 200 * MIB), ran


def kernel_limits(bench: Bench, handle: str) -> list[str]:
    """What the control group of a box says."""
    names = (
        *("cpu.max", "memory.max", "memory.swap.max", "pids.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
        *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"),
    )
    folders = bench.places.group(read_layout(mounts.current()), handle).folders
    found = [(name, folder / name) for folder in folders for name in names]
    return [f"{name} {path.read_text().strip()}" for name, path in found if path.exists()]


async def test_a_disk_in_a_file_is_claimed_only_at_its_size(warm: Bench) -> None:
    await warm.reopen(disk="image")
    warm.runtime.expect(warm.spec("x").layers)
    await full(warm)
    await warm.box("other", Limits(disk=64 * MIB))
    assert record_of(warm, "other").handle == "other"
    await full(warm)
    await warm.box("same")
    assert record_of(warm, "same").handle != "same"
    await warm.clear()


async def test_another_image_gets_a_box_of_its_own(warm: Bench) -> None:
    waiting = {each.handle for each in prepared(warm)}
    spec = warm.spec("other")
    layers = tuple(replace(layer, digest=f"{layer.digest}-2") for layer in spec.layers)
    await warm.runtime.create(replace(spec, layers=layers))
    assert record_of(warm, "other").handle == "other"
    await full(warm, 4)
    assert waiting <= {each.handle for each in prepared(warm)}


async def test_images_that_nobody_asks_for_give_their_boxes_up(warm: Bench) -> None:
    waiting = {each.handle for each in prepared(warm)}
    layers = warm.spec("x").layers
    for number in range(4):
        warm.runtime.expect(tuple(replace(layer, digest=f"{layer.digest}-{number}") for layer in layers))
    await full(warm, 8)
    assert waiting.isdisjoint(each.handle for each in prepared(warm))


async def test_an_id_that_is_taken_stays_the_first_ones(warm: Bench) -> None:
    await warm.box("box")
    await warm.sh("box", "echo mine > ~/file")
    with pytest.raises(BoxExists):
        await warm.box("box")
    assert (await warm.sh("box", "cat ~/file")).stdout == "mine\n"


async def test_a_prepared_box_that_dies_is_replaced(warm: Bench) -> None:
    victim = prepared(warm)[0]
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: victim.handle not in {path.name for path in warm.places.prepared.iterdir()})
    await full(warm)
    await warm.box("box")
    assert (await warm.sh("box", "echo lives")).stdout == "lives\n"


async def test_a_prepared_box_that_hangs_costs_time_and_nothing_else(settings: OciSettings) -> None:
    bench = Bench(replace(settings, warm=1, hello_limit_s=1.0))
    await bench.runtime.start()
    try:
        bench.runtime.expect(bench.spec("x").layers)
        await full(bench, 1)
        os.kill(prepared(bench)[0].pid, signal.SIGSTOP)
        await bench.box("box")
        assert record_of(bench, "box").handle == "box"
        assert (await bench.sh("box", "echo lives")).stdout == "lives\n"
    finally:
        await bench.clear()
        await bench.runtime.close()
    assert await gone(bench.places) == []


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 4, 6, 8])
async def test_a_cancelled_claim_leaves_nothing(warm: Bench, delay_ms: int) -> None:
    task = asyncio.create_task(warm.box("box"))
    await asyncio.sleep(delay_ms / 1000)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        assert await warm.runtime.boxes() == []
    await warm.clear()
    await warm.runtime.close()
    assert await gone(warm.places) == []


async def test_a_claimed_box_is_adopted_and_its_end_has_its_reason(warm: Bench) -> None:
    pid = (await warm.box("box")).pid
    await warm.reopen()
    assert (await warm.sh("box", "hostname")).stdout == "box-host\n"
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        dead = await anext(warm.runtime.deaths())
    assert (dead.id, dead.status, dead.reason) == ("box", BoxStatus.DEAD, DeathReason.KILLED)
    await warm.runtime.destroy("box")


async def test_nothing_is_left_of_boxes_that_nobody_claimed(settings: OciSettings) -> None:
    bench = Bench(settings)
    await bench.runtime.start()
    bench.runtime.expect(bench.spec("x").layers)
    await full(bench)
    await bench.runtime.close()
    assert await gone(bench.places) == []


@pytest.mark.parametrize("delay_ms", [0, 20, 60, 120])
async def test_a_killed_servers_prepared_boxes_go_with_the_next_start(settings: OciSettings, delay_ms: int) -> None:
    owner = start_owner(settings.data, 3, "--warm", "2")
    await asyncio.sleep(delay_ms / 1000)
    kill(owner)
    bench = Bench(replace(settings, warm=0))
    await bench.runtime.start()
    try:
        assert list(bench.places.prepared.iterdir()) == []
        assert {box.id for box in await bench.runtime.boxes()} == {"box0", "box1", "box2"}
        for number in range(3):
            assert (await bench.sh(f"box{number}", "echo lives")).stdout == "lives\n"
    finally:
        await bench.clear()
        await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_a_claim_that_was_cut_off_half_way_is_nobodys(warm: Bench) -> None:
    host = warm.runtime._host  # a server that is killed between two of its steps
    living = next(iter(host.prepared.values()))
    spec: BoxSpec = warm.spec("box")
    await asyncio.to_thread(host.assign, living, spec)
    await warm.reopen(warm=0)
    assert await warm.runtime.boxes() == []
    assert list(warm.places.prepared.iterdir()) == []
    await warm.box("box")
    assert (await warm.sh("box", "hostname")).stdout == "box-host\n"
