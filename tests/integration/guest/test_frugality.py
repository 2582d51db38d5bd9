"""What the guest costs, and that it answers when the box has nothing left."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from corral.runtime.contract import BoxExhausted, TerminalSize
from corral.runtime.guest import protocol
from tests.integration.guest import box as boxes
from tests.integration.guest.box import Box, cpu_ticks

MIB = 1 << 20


def private_kib(pid: int) -> int:
    """Memory that only this process has: without pages of its binary, which all guests share."""
    total, name = 0, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()
        if "-" in head[0] and ":" not in head[0]:
            name = head[5] if len(head) > 5 else ""
        elif head[0] == "Private_Dirty:" or (head[0] == "Private_Clean:" and not name.startswith("/")):
            total += int(head[1])
    return total


async def test_an_idle_guest_has_at_most_one_mib_of_its_own_before_and_after_work(box: Box) -> None:
    await box.client.claim(hostname="box", env={f"V{n}": "x" * 50 for n in range(50)})
    assert private_kib(box.pid) <= 1024
    for _ in range(20):
        await box.sh("head -c 1000000 /dev/zero", limit=2000)
    await asyncio.gather(*(box.sh("echo x") for _ in range(50)))
    await asyncio.gather(*(box.client.write_file(f"/tmp/{n}", blocks(8)) for n in range(20)))
    await asyncio.sleep(1.5)
    assert private_kib(box.pid) <= 1024


async def test_a_gibibyte_each_way_grows_neither_guest_nor_host(box: Box) -> None:
    size = 1024 * MIB
    guest_before = private_kib(box.pid)
    host_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert await box.client.write_file("/mnt/big", blocks(size // 262_144)) == size
    got = 0
    async for chunk in await box.client.read_file("/mnt/big"):
        got += len(chunk)
    assert got == size
    await asyncio.sleep(1.2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - host_before < 32 * 1024
    assert private_kib(box.pid) - guest_before < 512


async def test_everything_that_waits_costs_no_turns(box: Box) -> None:
    async with (
        box.start_command("/bin/sh", "-c", "stty -opost; yes", terminal=TerminalSize(), name="tty", limit=10),
        box.start_command("sleep", "60", stdin=True, name="full"),
    ):
        await box.sh("sleep 60 & sleep 60 2>&1 & echo children hold the pipes")
        deaf = [attach_without_reading(box.path, "tty") for _ in range(2)]
        stuck = asyncio.ensure_future(box.client.write_stdin("full", b"x" * 200_000))
        reader = await box.client.read_file("/usr/bin/python3")
        # Past the patience with the deaf viewers, which are dropped; without viewers the command writes at full speed.
        await asyncio.sleep(1.5)
        await box.client.signal("tty", signal.SIGSTOP)
        await asyncio.sleep(0.3)
        before = cpu_ticks(box.pid)
        await asyncio.sleep(1)
        assert cpu_ticks(box.pid) - before <= 2
        stuck.cancel()
        await reader.close()
        for sock in deaf:
            sock.close()
        await box.client.signal("tty", signal.SIGKILL)
        await box.client.signal("full", signal.SIGKILL)


async def test_a_quiet_command_is_told_to_be_alive(tmp_path: Path) -> None:
    with boxes.running(tmp_path, (str(boxes.GUEST), "500")) as box:
        async with box.start_command("sleep", "60") as (name, following, _):
            began = time.monotonic()
            seen = []
            async with asyncio.timeout(protocol.HEARTBEAT_S / 2):
                async for progress in following.events():
                    assert progress.result is None
                    seen.append(time.monotonic() - began)
                    if len(seen) == 2:
                        break
            assert seen[1] >= 0.9
            await box.client.signal(name, signal.SIGKILL)


async def test_a_fork_bomb_leaves_the_guest_able_to_answer_and_to_end_it(box: Box) -> None:
    group = pids_group()
    if group is None:
        pytest.skip("this host has no pids controller that a test may use")
    try:
        (group / "cgroup.procs").write_text(str(box.pid))
        (group / "pids.max").write_text("40")
        async with box.start_command("/bin/bash", "-c", "f() { f | f & }; f; sleep 60", name="bomb"):
            await asyncio.sleep(1)
            await box.client.hello()
            assert await is_refused(lambda: box.run("true"))
            # A bomb has a gap between two of its deaths and births now and then.
            assert any([await is_refused(lambda: box.client.write_file("/tmp/f", blocks(1))) for _ in range(20)])
            (group / "pids.max").write_text("max")
            await box.client.signal("bomb", 9)
    finally:
        box.stop()
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                await asyncio.sleep(0.05)


def attach_without_reading(path: Path, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    request = json.dumps({"op": "attach", "id": name}).encode()
    sock.sendall(struct.pack("<BI", 1, len(request)) + request)
    return sock


async def is_refused(call: Callable[[], Awaitable[object]]) -> bool:
    """Say whether one of thirty calls finds no process left; the bomb has gaps."""
    for _ in range(30):
        try:
            await call()
        except BoxExhausted:
            return True
    return False


def pids_group() -> Path | None:
    """A fresh group of the pids controller, on cgroup v1 or v2; None where there is none to be had."""
    name = f"corral-guest-test-{time.monotonic_ns()}"
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "pids.max").exists():
            return group
        group.rmdir()
    return None


async def blocks(count: int) -> AsyncIterator[bytes]:
    block = b"x" * 262_144
    for _ in range(count):
        yield block
