"""Promises about limits and walls. They hold where the kernel enforces them; the fake has neither."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from corral.runtime.conformance.checks.ports import ECHO, serve
from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, problem, raises
from corral.runtime.contract import MIB, BoxExhausted, BoxStatus, FileProblemKind, Limits, PortClosed

GROUP = Group()


def _limits(bench: Bench, **fields: int) -> Limits:
    return replace(bench.factory("dbx").limits, **fields)


@GROUP.hazardous
async def the_user_of_a_command_can_be_chosen(bench: Bench) -> None:
    """Commands run as the box's user unless `user` names another; root in the box is uid 0 there, not on the host."""
    box = await bench.box()
    user = bench.factory("dbx").user
    expect_equal((await bench.run(box, "id", "-u")).text, str(user.uid), "the uid")
    expect_equal((await bench.run(box, "id", "-g")).text, str(user.gid), "the gid")
    ran = await bench.sh(box, "id -u; echo ~", user="root")
    expect_equal(ran.text.split(), ["0", "/root"], "uid and home of root")
    sleeper = await bench.start(box, bench.command("sleep", "4242", user="root"))
    owners = {path.stat().st_uid for path in _commands("sleep\0" + "4242\0")}
    expect(owners, "the sleeping command is not on the host")
    expect(0 not in owners, "root in the box is root on the host")
    await bench.runtime.signal(box, sleeper, 9)


def _commands(line: str) -> list[Path]:
    """Folders in the host's /proc of processes with this command line."""
    found: list[Path] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == line.encode():
                found.append(entry)
        except OSError:
            continue  # it has ended meanwhile
    return found


@GROUP.hazardous
async def the_host_name_is_the_specs(bench: Bench) -> None:
    """The host name in the box is the spec's."""
    spec = bench.spec()
    await bench.runtime.create(spec)
    expect_equal((await bench.sh(spec.id, "echo $HOSTNAME; uname -n")).text.split(), [spec.hostname] * 2, "the names")


@GROUP.hazardous
async def processes_of_others_are_not_seen(bench: Bench) -> None:
    """A box sees its own processes only, and its process 1 is not the host's."""
    box, other = await bench.box(), await bench.box()
    sleeper = await bench.start(other, bench.command("sleep", "4343"))
    ran = await bench.sh(box, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls -d /proc/[0-9]* | wc -l", user="root")
    expect("sleep 4343" not in ran.text, "a command of another box is seen")
    expect(int(ran.text.split()[-1]) < 10, f"too many processes are seen: {ran.text}")
    await bench.runtime.signal(other, sleeper, 9)


_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def _owners() -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of the host's devices that boxes have too."""
    found = {name: Path("/dev", name).stat() for name in _DEVICES}
    return {name: (status.st_uid, status.st_gid, status.st_mode) for name, status in found.items()}


@GROUP.hazardous
async def the_hosts_devices_stay_the_hosts(bench: Bench) -> None:
    """Making a box, and root in it, change no owner and no mode of /dev/null and the like on the host."""
    before = _owners()
    expect_equal({name: status[:2] for name, status in before.items() if status[0]}, {}, "devices that are not root's")
    box = await bench.box()
    expect_equal(_owners(), before, "the devices after create")
    ran = await bench.sh(
        box, "cd /dev; chmod 600 null zero; chown 1 null zero; echo > null && echo usable", user="root"
    )
    expect_equal(_owners(), before, "the devices after root in the box tried to take them")
    expect_equal(ran.text, "usable", "what the box says of /dev/null")


@GROUP.hazardous
async def a_link_does_not_lead_to_the_host(bench: Bench) -> None:
    """A link, or a path, to a file of the host is not followed there."""
    box = await bench.box()
    with tempfile.NamedTemporaryFile(prefix="corral-host-") as secret:
        secret.write(b"of the host")
        secret.flush()
        await bench.run(box, "ln", "-s", secret.name, "link")
        for path in ("~/link", secret.name, f"/proc/1/root{secret.name}", f"/proc/{os.getpid()}/root{secret.name}"):
            with problem(FileProblemKind.NOT_FOUND, FileProblemKind.DENIED, what=f"read of {path}"):
                await bench.read(box, path, user="root")


@GROUP.hazardous
async def ports_of_others_are_not_reached(bench: Bench) -> None:
    """A port on the loopback of one box is not the port of another box, nor of the host."""
    box, other = await bench.box(), await bench.box()
    _, port = await serve(bench, box, ECHO)
    with raises(PortClosed, "connect to another box's port"):
        await bench.runtime.connect(other, port)


@GROUP.hazardous
async def orphans_are_reaped(bench: Bench) -> None:
    """Processes whose parents have ended leave no zombies behind."""
    box = await bench.box()
    await bench.sh(box, "for i in {1..50}; do (true & exec true) & done; wait")
    await bench.clock.sleep(0.2)
    ran = await bench.sh(box, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '", user="root")
    expect_equal(ran.text, "0", "zombies")


@GROUP.hazardous
async def process_1_cannot_be_killed_from_inside(bench: Bench) -> None:
    """Root in the box can end its commands, all at once too, but not its process 1; the box goes on."""
    box = await bench.box()
    sleeper = await bench.start(box, bench.command("sleep", "60"))
    ran = await bench.sh(box, "kill -KILL 1; kill -TERM 1; kill -INT 1; kill -STOP 1; kill -KILL -1", user="root")
    expect_equal((await bench.finish(box, sleeper)).result.signal, 9, "the signal that ended the other command")
    expect_equal(ran.result.lost, False, "whether the killer was lost")
    expect_equal((await bench.runtime.inspect(box)).status, BoxStatus.RUNNING, "the box")
    expect_equal((await bench.sh(box, "echo alive")).text, "alive", "a command afterwards")


@GROUP.hazardous
async def a_memory_hog_hurts_itself(bench: Bench) -> None:
    """A command over the memory limit is killed and counted; the box lives on, and so do the others."""
    box, other = await bench.box(limits=_limits(bench, memory=192 * MIB)), await bench.box()
    ran = await bench.run(box, "python3", "-c", "x = bytearray(1 << 30); print(len(x))")
    expect_equal(ran.result.exit_code, 137, "the hog's exit code")
    expect_equal(ran.result.lost, False, "whether the hog was lost")
    expect((await bench.runtime.usage(box)).oom_kills >= 1, "the kill is not counted")
    expect_equal((await bench.runtime.inspect(box)).status, BoxStatus.RUNNING, "the box")
    for one in (box, other):
        expect_equal((await bench.sh(one, "echo alive")).text, "alive", "a command afterwards")


@GROUP.hazardous
async def a_fork_bomb_hurts_itself(bench: Bench) -> None:
    """A box cannot have more tasks than its limit; at the limit `execute` raises BoxExhausted, and signals work."""
    box, other = await bench.box(limits=_limits(bench, pids=40)), await bench.box()
    bomb = await bench.start_sh(box, "echo go; while :; do sleep 30 & done 2>/dev/null")

    async def full() -> bool:
        return (await bench.runtime.usage(box)).pids >= 40

    await bench.until(full, "the box is at its limit of tasks")
    expect((await bench.runtime.usage(box)).pids <= 41, "the box is over its limit of tasks")
    refused = 0
    for _ in range(5):
        try:
            await bench.runtime.execute(box, bench.command("true"))
        except BoxExhausted:
            refused += 1
    expect(refused, "no command was refused with BoxExhausted at the limit of tasks")
    expect_equal((await bench.sh(other, "echo alive")).text, "alive", "the other box")
    await bench.runtime.signal(box, bomb, 9)
    await bench.finish(box, bomb)
    await bench.clock.sleep(0.2)
    expect_equal((await bench.sh(box, "echo alive")).text, "alive", "the box afterwards")


@GROUP.hazardous
async def a_disk_filler_hurts_itself(bench: Bench) -> None:
    """Over the disk limit a write fails with NO_SPACE, in the box and by `write_file`; removing files mends it."""
    box = await bench.box(limits=_limits(bench, disk=64 * MIB))
    ran = await bench.sh(box, "dd if=/dev/zero of=$HOME/filler bs=1M count=256")
    expect(ran.result.exit_code != 0, "256 MiB fit into a disk of 64 MiB")
    expect(b"space" in ran.stderr or b"quota" in ran.stderr, f"the box was told {ran.stderr!r}")
    expect((await bench.runtime.usage(box)).disk <= 80 * MIB, "the box is over its disk limit")
    with problem(FileProblemKind.NO_SPACE, what="write_file on a full disk"):
        await bench.write(box, "~/more", b"x" * (32 * MIB))
    ran = await bench.sh(box, "rm ~/filler; echo mended > ~/small && cat ~/small")
    expect_equal(ran.text, "mended", "the box afterwards")


@GROUP.hazardous
async def a_busy_box_is_held_to_its_cpus(bench: Bench) -> None:
    """A box with half a CPU gets about that, however many processes it starts."""
    box = await bench.box(limits=replace(bench.factory("dbx").limits, cpu=0.5))
    before, start = await bench.runtime.usage(box), bench.clock.monotonic()
    await bench.sh(box, "for i in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait")
    used = (await bench.runtime.usage(box)).cpu_us - before.cpu_us
    elapsed = bench.clock.monotonic() - start  # held to half a CPU, the end of the loops may come seconds late
    expect(0 < used < elapsed * 750_000, f"it used {used / 1e6:.2f} s of CPU time in {elapsed:.2f} s")
