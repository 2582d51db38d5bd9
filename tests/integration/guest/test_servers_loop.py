"""Every kind of connection once on uvloop, which the server runs on; the other tests run on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from corral.runtime.contract import BoxUnresponsive, PortClosed, TerminalSize
from tests.integration.guest.box import Box, last_of


async def blocks() -> AsyncIterator[bytes]:
    for _ in range(400):
        yield b"x" * 262_144


async def scenario(box: Box) -> None:
    done = await asyncio.gather(*(box.sh(f"echo {n}") for n in range(50)))
    assert [one.stdout for one in done] == [f"{n}\n".encode() for n in range(50)]

    assert await box.client.write_file("/tmp/f", blocks()) == 400 * 262_144
    got = 0
    async for chunk in await box.client.read_file("/tmp/f"):
        got += len(chunk)
    assert got == 400 * 262_144

    async with box.start_command("cat", terminal=TerminalSize()) as (name, following, _):
        viewer = await box.client.attach(name)
        await viewer.write(b"hello\n")
        seen = b""
        while seen != b"hello\r\nhello\r\n":  # the terminal's echo, then what cat says, together or one by one
            seen += await viewer.read()
        waiting = asyncio.ensure_future(viewer.read())
        await asyncio.sleep(0.05)
        await viewer.close()
        assert await asyncio.wait_for(waiting, 5) == b""
        await box.client.signal(name, 9)
        await last_of(following)

    async with box.start_command("sleep", "30", stdin=True) as (name, following, _):
        with pytest.raises(BoxUnresponsive):
            await box.client.write_stdin(name, b"x" * 1_000_000, timeout_s=0.2)
        follower = asyncio.ensure_future(last_of(following))
        await asyncio.sleep(0.05)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        await box.client.signal(name, 9)
    with pytest.raises(PortClosed):
        await box.client.connect(9)
    assert (await box.sh("echo well")).stdout == b"well\n"


def test_every_kind_of_connection_works_on_the_servers_loop(box: Box) -> None:
    uvloop.run(scenario(box), debug=True)
