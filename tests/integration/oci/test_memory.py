"""Boxes that are written to disk with their processes, and go on as if nothing had happened."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime.contract import (
    Box,
    BoxStatus,
    Copied,
    ExecSpec,
    Limits,
    MemoryNotKept,
    NoSuchExecution,
    Progress,
    Stream,
    TerminalSize,
)
from tests.integration.oci.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

COUNT = """
import sys, time
held = bytearray(b"x" * int(sys.argv[1]))
number = 0
while True:
    print(number, time.monotonic(), flush=True)
    number += 1
    time.sleep(0.02)
"""
#: A number of the C library's generator at each line that it is sent; and a connection with itself, kept in use.
DRAW = "import sys, uuid\nfor line in sys.stdin: print(uuid.uuid4().hex)"
HELD = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(server.getsockname())
other, _ = server.accept()
try:
    while True:
        one.sendall(b"ping")
        print(other.recv(4).decode() or "closed", flush=True)
        time.sleep(0.05)
except OSError:
    print("closed", flush=True)
time.sleep(600)
"""
#: A process that somebody traces has no room for CRIU.
TRACED = """
import ctypes, os, time
child = os.fork()
if child == 0:
    while True:
        print("works", flush=True)
        time.sleep(0.05)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, child, None, None) == 0
print("traced", flush=True)
time.sleep(600)
"""


async def started(bench: Bench, box: str, name: str, *argv: str, **more: object) -> None:
    await bench.runtime.execute(box, ExecSpec(name, argv, **more))  # type: ignore[arg-type]


def numbers(bench: Bench, box: str, name: str) -> list[int]:
    text = bench.runtime.read_output(box, name, Stream.STDOUT, 0, 1 << 20).decode()
    return [int(line.split()[0]) for line in text.splitlines()]


def clocks(bench: Bench, box: str, name: str) -> list[float]:
    text = bench.runtime.read_output(box, name, Stream.STDOUT, 0, 1 << 20).decode()
    return [float(line.split()[1]) for line in text.splitlines()]


async def counts_on(bench: Bench, box: str, name: str, limit_s: float = 10.0) -> None:
    """Wait until a counter has gone on, then see that it left nothing out and said nothing twice."""
    before, deadline = len(numbers(bench, box, name)), time.monotonic() + limit_s
    while len(numbers(bench, box, name)) < before + 5:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    said = numbers(bench, box, name)  # once: it goes on
    assert said == list(range(len(said)))


async def asleep(bench: Bench, box: str, name: str = "kept") -> Copied:
    copied = await bench.runtime.checkpoint(box, name)
    await bench.runtime.destroy(box)
    return copied


async def awake(bench: Bench, box: str, name: str = "kept") -> Box:
    return await bench.runtime.create(replace(bench.spec(box), origin=name, memory=True))


async def test_a_box_goes_on_with_all_that_it_did(bench: Bench) -> None:
    await bench.box("one")
    await started(bench, "one", "count", "python3", "-c", COUNT, "1000000")
    await started(bench, "one", "serve", "python3", "-m", "http.server", "--bind", "127.0.0.1", "8000")
    await started(bench, "one", "low", "python3", "-m", "http.server", "80", user="root")
    await started(bench, "one", "cat", "cat", stdin=True)
    await started(bench, "one", "shell", "bash", "--norc", terminal=TerminalSize())
    await bench.runtime.write_stdin("one", "cat", b"before\n")
    await bench.runtime.write_stdin("one", "shell", b"there=here\n")
    seen: list[Progress] = []

    async def follow() -> None:
        async for progress in bench.runtime.follow("one", "count"):
            seen.append(progress)  # noqa: PERF401 - looked at while it grows

    following = asyncio.create_task(follow())
    await counts_on(bench, "one", "count")
    for _ in range(2):
        copied = await asleep(bench, "one")
        assert copied.memory > 1_000_000
        assert not bench.runtime._host.living
        stood = len(numbers(bench, "one", "count"))
        await asyncio.sleep(0.5)
        assert len(numbers(bench, "one", "count")) == stood
        assert (await awake(bench, "one")).restored
        await bench.runtime.forget_snapshot("kept")
        told = len(seen)
        await counts_on(bench, "one", "count")
        assert len(seen) > told
        for port in (8000, 80):
            stream = await bench.runtime.connect("one", port)
            await stream.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await stream.read()).startswith(b"HTTP/1.0 200")
            await stream.close()
    ticks = clocks(bench, "one", "count")
    # The clock stands while nothing is there; what is left is the work of the dump and of the restore.
    assert 0 < max(after - before for before, after in itertools.pairwise(ticks)) < 5
    await bench.runtime.write_stdin("one", "cat", b"after\n", close=True)
    async for _ in bench.runtime.follow("one", "cat"):
        pass
    assert bench.runtime.read_output("one", "cat", Stream.STDOUT, 0, 100) == b"before\nafter\n"
    terminal = await bench.runtime.attach("one", "shell")
    await terminal.write(b"echo is-$there\n")
    text = b""
    while b"is-here" not in text:
        text += await terminal.read()
    await terminal.close()
    assert (await bench.sh("one", "hostname; ls /proc/1/fd || getent hosts one-host", "root")).stdout.split()[0] == (
        "one-host"
    )
    assert "denied" in (await bench.sh("one", "ls /proc/1/fd", "root")).stderr
    following.cancel()


async def test_a_box_goes_on_as_two_others_and_as_itself(bench: Bench) -> None:
    await bench.box("one")
    await started(bench, "one", "count", "python3", "-c", COUNT, "1000000")
    await started(bench, "one", "draw", "python3", "-uc", DRAW, stdin=True)
    await started(bench, "one", "serve", "python3", "-m", "http.server", "8000")
    await started(bench, "one", "held", "python3", "-uc", HELD)
    await bench.runtime.write_stdin("one", "draw", b"\n")
    await counts_on(bench, "one", "count")
    while bench.runtime.output_size("one", "held", Stream.STDOUT) < 20:
        await asyncio.sleep(0.02)
    calls = asyncio.create_task(_calls(bench, "one"))
    copied = await bench.runtime.snapshot("one", "kept", memory=True)
    # A call that was under way at that moment goes on too.
    assert [name for name in copied.executions if not name.startswith("e")] == ["count", "draw", "held", "serve"]
    await counts_on(bench, "one", "count")
    names = {box: {old: f"{old}-{box}" for old in copied.executions} for box in ("two", "three")}
    made = await asyncio.gather(
        *(
            bench.runtime.create(
                replace(bench.spec(box), origin="kept", memory=True, executions=names[box], env={"WHOSE": box})
            )
            for box in names
        )
    )
    assert all(box.restored for box in made)
    await bench.runtime.forget_snapshot("kept")
    assert not list((bench.settings.data / "memory").iterdir())
    drawn, addresses = [], set[str]()
    for box, ids in {**names, "one": {old: old for old in copied.executions}}.items():
        await counts_on(bench, box, ids["count"])
        await bench.runtime.write_stdin(box, ids["draw"], b"\n")
        while len(text := bench.runtime.read_output(box, ids["draw"], Stream.STDOUT, 0, 1000).split()) < 2:
            await asyncio.sleep(0.02)
        drawn.append(text)
        stream = await bench.runtime.connect(box, 8000)
        await stream.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await stream.read()).startswith(b"HTTP/1.0 200")
        await stream.close()
        seen = (await bench.sh(box, "hostname; cat /etc/hostname; echo $WHOSE; hostname -I", "root")).stdout.split()
        assert seen[:2] == [f"{box}-host"] * 2
        assert seen[2] == box or box == "one"
        addresses.add(seen[-1])
        assert "denied" in (await bench.sh(box, "ls /proc/1/fd", "root")).stderr
    assert len(addresses) == 3
    # What they drew before is one number, and from then on each has its own.
    assert len({text[0] for text in drawn}) == 1
    assert len({text[1] for text in drawn}) == 3
    # Its own connections are as they were; those of the others are closed.
    assert (await _held(bench, "one", "held")) == "ping"
    assert (await _held(bench, "two", "held-two")) == "closed"
    # Nobody's commands are another's.
    for box, stranger in (("one", "count-two"), ("two", "count"), ("three", "count-two")):
        with pytest.raises(NoSuchExecution):
            await bench.runtime.signal(box, stranger, signal.SIGKILL)
    calls.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls
    await bench.runtime.destroy("one")
    await counts_on(bench, "two", "count-two")


async def _held(bench: Bench, box: str, name: str) -> str:
    """What the last word on the connection that a command holds with itself is, once another came."""
    before = bench.runtime.output_size(box, name, Stream.STDOUT)
    while bench.runtime.output_size(box, name, Stream.STDOUT) == before:
        await asyncio.sleep(0.02)
        if box != "one":
            break
    return bench.runtime.read_output(box, name, Stream.STDOUT, 0, 1 << 20).decode().split()[-1]


async def _calls(bench: Bench, box: str) -> None:
    """Use the box all the time: whatever fails, fails the test."""
    while True:
        assert (await bench.sh(box, "echo goes on")).stdout == "goes on\n"
        assert await bench.runtime.list_files(box, "/")


async def test_what_cannot_be_kept_is_said_and_goes_on(bench: Bench) -> None:
    await bench.box("one")
    await started(bench, "one", "traced", "python3", "-c", TRACED)
    while b"traced" not in bench.runtime.read_output("one", "traced", Stream.STDOUT, 0, 1 << 20):
        await asyncio.sleep(0.02)
    with pytest.raises(MemoryNotKept, match="cannot keep memory of box one: "):
        await bench.runtime.checkpoint("one", "kept")
    assert await bench.runtime.snapshots() == []
    assert not list((bench.settings.data / "memory").iterdir())
    before = bench.runtime.output_size("one", "traced", Stream.STDOUT)
    await asyncio.sleep(0.3)
    assert bench.runtime.output_size("one", "traced", Stream.STDOUT) > before
    assert (await bench.sh("one", "echo goes on")).stdout == "goes on\n"
    await bench.runtime.snapshot("one", "disk")


async def test_a_dump_that_is_killed_says_what_that_may_have_done(bench: Bench) -> None:
    await bench.box("one", Limits(memory=1 << 30))
    await started(bench, "one", "count", "python3", "-c", COUNT, "300000000")
    await counts_on(bench, "one", "count", 20)
    dump = asyncio.create_task(bench.runtime.checkpoint("one", "kept"))
    os.kill(await _criu(bench), signal.SIGKILL)
    with pytest.raises(MemoryNotKept, match="criu was killed: processes of the box may have ended with it"):
        await dump
    assert await bench.runtime.snapshots() == []
    assert not list((bench.settings.data / "memory").iterdir())
    await bench.runtime.snapshot("one", "disk")
    await bench.runtime.destroy("one")
    assert await bench.runtime.boxes() == []


async def _criu(bench: Bench) -> int:
    process = bench.runtime._host.launcher._process
    assert process is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        for child in children.read_text().split():
            if b"\0dump\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        await asyncio.sleep(0.005)


async def test_memory_that_cannot_be_brought_back_leaves_the_disk(bench: Bench) -> None:
    await bench.box("one")
    await bench.sh("one", "echo kept > file")
    await started(bench, "one", "count", "python3", "-c", COUNT, "1000")
    await asleep(bench, "one")
    broken = max((bench.settings.data / "memory" / "kept").glob("core-*.img"))
    os.truncate(broken, 20)
    for _ in range(2):
        with pytest.raises(MemoryNotKept, match="cannot bring back memory of box one: "):
            await awake(bench, "one")
        assert await bench.runtime.boxes() == []
    await bench.runtime.create(replace(bench.spec("one"), origin="kept"))
    assert (await bench.sh("one", "cat file")).stdout == "kept\n"
    lost = [progress async for progress in bench.runtime.follow("one", "count")][-1].result
    assert lost is not None
    assert lost.lost


async def test_memory_outlives_the_server_and_the_hosts_uptime(bench: Bench) -> None:
    await bench.box("one")
    await started(bench, "one", "count", "python3", "-c", COUNT, "1000")
    await counts_on(bench, "one", "count")
    await asleep(bench, "one")
    await bench.reopen()
    # No box is left, so nothing of the driver's is in memory any more: as after a boot.

    async def first() -> Progress:
        return await anext(bench.runtime.follow("one", "count"))

    following = asyncio.create_task(first())
    await asyncio.sleep(0.2)
    assert not following.done()
    await awake(bench, "one")
    await following
    await counts_on(bench, "one", "count")
    await bench.reopen()
    assert (await bench.runtime.inspect("one")).status is BoxStatus.RUNNING
    await counts_on(bench, "one", "count")
    await asleep(bench, "one", "again")
    await awake(bench, "one", "again")
    await counts_on(bench, "one", "count")
