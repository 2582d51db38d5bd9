"""Terminals: size, replay, several viewers, and viewers that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest

from corral.runtime.contract import ByteStream, ExecutionEnded, TerminalSize
from tests.integration.guest.box import Box, last_of


async def read_until(stream: ByteStream, wanted: bytes) -> bytes:
    got = b""
    async with asyncio.timeout(10):
        while wanted not in got:
            more = await stream.read()
            assert more, f"ended after {got!r}"
            got += more
    return got


async def test_a_command_on_a_terminal_has_its_size_and_is_told_of_a_new_one(box: Box) -> None:
    script = "tty; stty size; echo $TERM; trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    size = TerminalSize(rows=33, cols=101)
    async with box.start_command("/bin/bash", "-c", script, terminal=size, user="user") as (name, following, _):
        viewer = await box.client.attach(name)
        first = await read_until(viewer, b"ready")
        assert b"/dev/pts/" in first
        assert b"33 101\r\nxterm-256color\r\n" in first
        await box.client.resize(name, TerminalSize(rows=10, cols=20))
        await read_until(viewer, b"10 20\r\n")
        await box.client.signal(name, 9)
        assert (await last_of(following)).result is not None
        await viewer.close()
    with pytest.raises(ExecutionEnded):
        await box.client.resize(name, size)


async def test_two_viewers_see_the_same_and_a_late_one_what_came_before(box: Box) -> None:
    async with box.start_command("/bin/bash", "--norc", terminal=TerminalSize()) as (name, following, spool):
        one = await box.client.attach(name)
        await one.write(b"PS1='> '; echo fir''st\n")
        await read_until(one, b"first\r\n")
        two = await box.client.attach(name)
        await read_until(two, b"first\r\n")
        await two.write(b"echo sec''ond\n")
        await asyncio.gather(read_until(one, b"second\r\n"), read_until(two, b"second\r\n"))
        await one.close()
        await two.write(b"exit 7\n")
        last = await last_of(following)
        rest = b""
        while more := await two.read():
            rest += more
        assert b"exit" in rest
        await two.close()
    assert last.result is not None
    assert last.result.exit_code == 7
    assert b"first\r\n" in spool.stdout
    assert b"second\r\n" in spool.stdout
    with pytest.raises(ExecutionEnded):
        await box.client.attach(name)


async def test_control_c_and_end_of_file_are_typed(box: Box) -> None:
    async with box.start_command("/bin/sh", "-c", "trap 'echo stopped' INT; cat; wc -l", terminal=TerminalSize()) as (
        name,
        following,
        spool,
    ):
        viewer = await box.client.attach(name)
        await box.client.write_stdin(name, b"hello\n")
        await read_until(viewer, b"hello\r\nhello\r\n")
        await viewer.write(b"\x03")
        await read_until(viewer, b"stopped")
        await box.client.write_stdin(name, b"a line\n", close=True)
        await last_of(following)
        await viewer.close()
    assert spool.stdout.endswith(b"1\r\n")


async def test_a_command_without_a_terminal_cannot_be_attached_to(box: Box) -> None:
    async with box.start_command("sleep", "30") as (name, _, _):
        with pytest.raises(ExecutionEnded, match="it has no terminal"):
            await box.client.attach(name)
        with pytest.raises(ExecutionEnded, match="it has no terminal"):
            await box.client.resize(name, TerminalSize())
        await box.client.signal(name, 9)


async def test_a_viewer_that_does_not_read_is_dropped_and_the_command_goes_on(box: Box) -> None:
    script = "stty -opost; head -c 20000000 /dev/zero | tr '\\0' x; echo over"
    async with box.start_command("/bin/sh", "-c", f"sleep 0.2; {script}", terminal=TerminalSize(), limit=1000) as (
        name,
        following,
        _,
    ):
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(str(box.path))
        request = json.dumps({"op": "attach", "id": name}).encode()
        deaf.sendall(struct.pack("<BI", 1, len(request)) + request)
        good = await box.client.attach(name)
        count = 0
        async with asyncio.timeout(20):
            while chunk := await good.read():
                count += chunk.count(b"x")
        last = await last_of(following)
        await good.close()
    deaf.close()
    assert count == 20_000_000
    assert last.result is not None
    assert (last.result.exit_code, last.result.stdout_cut, last.stdout) == (0, True, 1000)


async def test_the_replay_is_the_last_64_kib(box: Box) -> None:
    script = "stty -opost; head -c 100000 /dev/zero | tr '\\0' a; head -c 65000 /dev/zero | tr '\\0' b; sleep 30"
    async with box.start_command("/bin/sh", "-c", script, terminal=TerminalSize()) as (name, following, _):
        async for progress in following.events():
            if progress.stdout >= 165_000:
                break
        viewer = await box.client.attach(name)
        got = b""
        while len(got) < 65_536:
            got += await viewer.read()
        await viewer.close()
        await box.client.signal(name, 9)
    assert got == b"a" * 536 + b"b" * 65_000


async def test_closing_a_viewer_wakes_its_reader(box: Box) -> None:
    async with box.start_command("sleep", "30", terminal=TerminalSize()) as (name, _, _):
        viewer = await box.client.attach(name)
        reader = asyncio.ensure_future(viewer.read())
        await asyncio.sleep(0.05)
        await viewer.close()
        assert await asyncio.wait_for(reader, 5) == b""
        assert await viewer.read() == b""
        await viewer.close()
        await box.client.signal(name, 9)
