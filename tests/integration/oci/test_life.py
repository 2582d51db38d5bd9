"""Boxes come, live and go without a trace, whatever happens to the process that made them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench.leftovers import gone, traces

from corral.runtime.contract import (
    MIB,
    BoxExists,
    BoxGone,
    BoxStatus,
    DeathReason,
    ExecSpec,
    HostUnfit,
    Limits,
    Stream,
)
from corral.runtime.oci.driver import OciRuntime
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]


def start_owner(data: Path, number: int, *more: str) -> subprocess.Popen[str]:
    """Start a process that owns a driver, and wait until its boxes run."""
    argv = [sys.executable, "-m", "tests.integration.oci.owner", str(data), str(number), *more]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    return owner


def kill(owner: subprocess.Popen[str]) -> None:
    """As a crash would."""
    owner.kill()
    owner.wait(10)
    assert owner.stdout is not None
    owner.stdout.close()


async def test_the_hosts_null_device_stays_the_hosts(bench: Bench) -> None:
    before = os.stat("/dev/null")
    await bench.box("one")
    await bench.sh("one", "chmod 600 /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2; true", "root")
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


async def test_nothing_is_left_after_destroy_and_close(settings: OciSettings) -> None:
    bench = Bench(settings)
    await bench.runtime.start()
    await asyncio.gather(*(bench.box(f"box{number}") for number in range(6)))
    await bench.sh("box0", "setsid sleep 600 & dd if=/dev/zero of=/tmp/big bs=1M count=20", "root")
    assert await asyncio.to_thread(traces, bench.places)
    await bench.clear()
    await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_a_box_has_its_host_name_and_resolves_it(bench: Bench) -> None:
    await bench.box("box")
    ran = await bench.sh("box", "hostname; getent hosts $(hostname); sudo -n hostname")
    assert ran.stdout.split() == ["box-host", "127.0.1.1", "box-host", "box-host"], ran


async def test_an_id_is_taken_once(bench: Bench) -> None:
    await bench.box("box")
    with pytest.raises(BoxExists):
        await bench.box("box")
    assert (await bench.sh("box", "echo lives")).stdout == "lives\n"


async def test_destroy_is_idempotent_and_at_once(bench: Bench) -> None:
    await bench.box("box")
    await asyncio.gather(bench.runtime.destroy("box"), bench.runtime.destroy("box"))
    await bench.runtime.destroy("box")
    with pytest.raises(BoxGone):
        await bench.runtime.inspect("box")
    await bench.box("box")


@pytest.mark.parametrize("delay_ms", [0, 1, 3, 6, 10, 15, 20, 25, 30, 40])
async def test_a_cancelled_create_leaves_nothing(settings: OciSettings, delay_ms: int) -> None:
    bench = Bench(settings)
    await bench.runtime.start()
    try:
        task = asyncio.create_task(bench.box("box"))
        await asyncio.sleep(delay_ms / 1000)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert await bench.runtime.boxes() == []
    finally:
        await bench.clear()
        await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_a_guest_that_does_not_answer_leaves_nothing(settings: OciSettings, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    source = tmp_path / "mute.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    subprocess.run(["cc", "-static", "-o", str(mute), str(source)], check=True, timeout=60)
    bench = Bench(replace(settings, guest=mute, hello_limit_s=0.5))
    await bench.runtime.start()
    with pytest.raises(Exception, match="guest"):
        await bench.box("box")
    assert await bench.runtime.boxes() == []
    await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_boxes_and_output_outlive_a_killed_server(settings: OciSettings) -> None:
    owner = start_owner(settings.data, 8)
    kill(owner)
    bench = Bench(settings)
    began = time.monotonic()
    await bench.runtime.start()
    assert time.monotonic() - began < 3
    try:
        found = await bench.runtime.boxes()
        assert {box.id for box in found if box.status is BoxStatus.RUNNING} == {f"box{n}" for n in range(8)}
        results = [progress.result async for progress in bench.runtime.follow("box0", "late")]
        assert results[-1] is not None
        assert results[-1].exit_code == 7
        assert bench.runtime.read_output("box0", "late", Stream.STDOUT, 0, 100) == b"survived\n"
        await bench.box("fresh")
        assert (await bench.sh("fresh", "echo hi")).stdout == "hi\n"
    finally:
        await bench.clear()
        await bench.runtime.close()
    assert await gone(bench.places) == []


async def test_a_server_killed_while_it_makes_boxes_leaves_only_what_can_be_destroyed(settings: OciSettings) -> None:
    for pause in (0.05, 0.12, 0.19):
        owner = start_owner(settings.data, 1, "--go-on")
        await asyncio.sleep(pause)
        kill(owner)
        bench = Bench(settings)
        await bench.runtime.start()
        for box in await bench.runtime.boxes():
            if box.status is BoxStatus.RUNNING:
                assert (await bench.sh(box.id, "true")).code == 0
        await bench.clear()
        await bench.runtime.close()
        assert await gone(bench.places) == []


async def test_a_killed_box_is_told_with_its_reason(bench: Bench) -> None:
    box = await bench.box("box")
    os.kill(box.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        dead = await anext(bench.runtime.deaths())
    assert (dead.id, dead.status, dead.reason) == ("box", BoxStatus.DEAD, DeathReason.KILLED)
    assert (await bench.runtime.inspect("box")).status is BoxStatus.DEAD


async def test_an_end_is_not_put_down_to_a_kill_for_memory_that_the_box_outlived(bench: Bench) -> None:
    box = await bench.box("box", Limits(memory=128 * MIB))
    assert (await bench.sh("box", "python3 -c 'bytearray(1 << 30)'")).code == 137
    assert (await bench.runtime.usage("box")).oom_kills == 1
    os.kill(box.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        dead = await anext(bench.runtime.deaths())
    assert dead.reason is DeathReason.KILLED
    assert (await bench.runtime.inspect("box")).reason is DeathReason.KILLED


async def test_a_box_that_dies_while_the_server_is_away_is_dead(bench: Bench) -> None:
    box = await bench.box("box")
    await bench.runtime.close()
    os.kill(box.pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    bench.runtime = OciRuntime(bench.settings)
    await bench.runtime.start()
    assert [found.status for found in await bench.runtime.boxes()] == [BoxStatus.DEAD]


async def test_commands_leave_no_connection_behind(bench: Bench) -> None:
    """However they are followed: after their end, as quick ones are, or never, until their box goes."""

    def connections() -> int:
        return sum(entry.is_socket() for entry in Path("/proc/self/fd").iterdir())

    await bench.box("box")
    before = connections()
    for number in range(10):
        await bench.runtime.execute("box", ExecSpec(f"quick{number}", ("true",)))
        while not (bench.places.spool / "box" / f"quick{number}.status").read_text():
            await asyncio.sleep(0.01)
        assert [one.result is not None async for one in bench.runtime.follow("box", f"quick{number}")][-1]
    assert connections() == before
    for number in range(10):
        await bench.runtime.execute("box", ExecSpec(f"alone{number}", ("true",)))
    await bench.runtime.destroy("box")
    assert connections() == before


async def test_a_killed_launcher_is_replaced(bench: Bench) -> None:
    await bench.box("before")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    ours = ("oci.launcher", str(bench.settings.data))
    launchers = [pid for pid, command in commands.items() if all(word in command for word in ours)]
    assert len(launchers) == 1
    os.kill(int(launchers[0]), signal.SIGKILL)
    await asyncio.sleep(0.2)
    await bench.box("after")
    assert (await bench.sh("before", "echo 1")).stdout + (await bench.sh("after", "echo 2")).stdout == "1\n2\n"


async def test_two_servers_cannot_share_a_data_folder(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.runtime.oci.shared.LOCK_LIMIT_S", 0.2)
    with pytest.raises(HostUnfit, match="another server"):
        await OciRuntime(bench.settings).start()
    await bench.box("box")


async def test_two_data_folders_share_a_host(bench: Bench, settings: OciSettings, tmp_path: Path) -> None:
    other = Bench(replace(settings, data=tmp_path / "other"))
    await other.runtime.start()
    try:
        await asyncio.gather(bench.box("one"), other.box("two"))
        first, second = await bench.sh("one", "hostname -I"), await other.sh("two", "hostname -I")
        assert first.stdout.split() != second.stdout.split()
        reached = await bench.sh("one", f"ping -c1 -W1 {second.stdout.split()[0]}", "root")
        assert reached.code != 0
    finally:
        await other.clear()
        await other.runtime.close()
    assert await gone(other.places) == []
    assert (await bench.sh("one", "curl -s -o /dev/null http://localhost:1 || echo still")).stdout == "still\n"


@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
async def test_runc_makes_boxes_too(bench: Bench) -> None:
    await bench.reopen(oci_runtime="runc")
    await bench.box("box", Limits(memory=256 << 20))
    ran = await bench.sh("box", "id -un; sudo -n id -un; grep Seccomp: /proc/self/status")
    assert ran.stdout.split() == ["user", "root", "Seccomp:", "2"], ran
    await bench.runtime.destroy("box")
    assert await bench.runtime.boxes() == []
