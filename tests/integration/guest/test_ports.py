"""Forwarded connections: bytes, half-close, refusals, slow ends."""

from __future__ import annotations

import asyncio
import os

import pytest

from corral.runtime.contract import PortClosed
from tests.integration.guest.box import Box, cpu_ticks, soon

SERVER = """
import socket, sys
kind, port, mode = sys.argv[1:]
s = socket.create_server(("127.0.0.1", int(port)) if kind == "4" else ("::1", int(port)),
                         family=socket.AF_INET if kind == "4" else socket.AF_INET6)
print("ready", flush=True)
c, _ = s.accept()
if mode == "count":
    n = 0
    while data := c.recv(65536): n += len(data)
    c.sendall(str(n).encode())
elif mode == "echo":
    while data := c.recv(65536): c.sendall(data)
elif mode == "flood":
    c.sendall(b"y" * 30_000_000)
elif mode == "reset":
    import struct
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
c.close()
"""


class Service:
    """A server of one connection in the box."""

    def __init__(self, box: Box, mode: str, kind: str = "4", port: int = 8080) -> None:
        self._command = box.start_command("python3", "-c", SERVER, kind, str(port), mode)

    async def __aenter__(self) -> None:
        _, following, _ = await self._command.__aenter__()
        async for progress in following.events():
            assert progress.result is None
            if progress.stdout:
                return

    async def __aexit__(self, *args: object) -> None:
        await self._command.__aexit__(*args)  # type: ignore[arg-type] # as given


async def test_bytes_go_both_ways_and_closing_one_way_leaves_the_other(box: Box) -> None:
    async with Service(box, "count"):
        stream = await box.client.connect(8080)
        for _ in range(100):
            await stream.write(b"x" * 100_000)
        await stream.finish()
        assert await stream.read() == b"10000000"
        assert await stream.read() == b""
        await stream.close()


async def test_an_echo_through_a_slow_reader_is_whole(box: Box) -> None:
    data = os.urandom(8_000_000)
    async with Service(box, "echo"):
        stream = await box.client.connect(8080)

        async def send() -> None:
            for start in range(0, len(data), 100_000):
                await stream.write(data[start : start + 100_000])
            await stream.finish()

        sender = asyncio.ensure_future(send())
        await asyncio.sleep(0.2)
        got = b""
        while more := await stream.read():
            got += more
        await sender
        await stream.close()
        assert got == data


async def test_a_server_on_the_ipv6_loopback_is_found(box: Box) -> None:
    async with Service(box, "echo", kind="6"):
        stream = await box.client.connect(8080)
        await stream.write(b"six")
        assert await stream.read() == b"six"
        await stream.close()


async def test_a_port_where_nothing_listens_is_closed(box: Box) -> None:
    with pytest.raises(PortClosed, match=r"^cannot connect to port 9999: nothing listens there$"):
        await box.client.connect(9999)
    for number in (-1, 0, 65_536):
        with pytest.raises(PortClosed, match="there is no such port"):
            await box.client.connect(number)


async def test_a_host_that_does_not_read_costs_the_box_nothing(box: Box) -> None:
    async with Service(box, "flood"):
        stream = await box.client.connect(8080)
        assert len(await stream.read()) > 0
        await asyncio.sleep(0.3)
        before = cpu_ticks(box.pid)
        await asyncio.sleep(0.5)
        assert cpu_ticks(box.pid) - before <= 2
        await stream.close()
        assert await _closes(box)


async def test_a_reset_ends_the_stream(box: Box) -> None:
    async with Service(box, "reset"):
        stream = await box.client.connect(8080)
        async with asyncio.timeout(5):
            while await stream.read():
                pass
        await stream.close()
        assert await _closes(box)


async def test_an_idle_connection_costs_no_turns(box: Box) -> None:
    async with Service(box, "echo"):
        stream = await box.client.connect(8080)
        await stream.write(b"hi")
        assert await stream.read() == b"hi"
        before = cpu_ticks(box.pid)
        await asyncio.sleep(0.5)
        assert cpu_ticks(box.pid) - before <= 1
        await stream.close()
        assert await _closes(box)


async def _closes(box: Box) -> bool:
    """Say whether the guest gets back to the descriptors of an idle one, and one command with its connection."""
    return await soon(lambda: box.descriptors() <= 16)
