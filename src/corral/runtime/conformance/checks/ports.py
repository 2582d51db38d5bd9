"""Promises about connections to ports in a box."""

from __future__ import annotations

import asyncio
import hashlib

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises, read_to_end, read_until
from corral.runtime.contract import MIB, ByteStream, PortClosed

GROUP = Group()

#: Serves on a free port of the loopback, which it prints: gives back what it gets, and ends when the other side does.
ECHO = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def echo(peer):
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.close()
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
"""

#: Says one line to who connects, then closes.
_GREETER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    peer = server.accept()[0]
    peer.sendall(b"welcome")
    peer.close()
"""


#: Accepts one connection and never reads from it.
_DEAF = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peer = server.accept()
time.sleep(60)
"""


async def serve(bench: Bench, box: str, program: str) -> tuple[str, int]:
    """Start a server in the box; return its execution and port."""
    running = await bench.start(box, bench.command("python3", "-c", program))
    await bench.until_output(box, running, b"\n")
    return running, int(bench.output(box, running))


@GROUP.check
async def a_port_is_reached(bench: Bench) -> None:
    """A connection to a port that a command listens on carries bytes both ways."""
    box = await bench.box()
    _, port = await serve(bench, box, ECHO)
    stream = await bench.runtime.connect(box, port)
    await stream.write(b"hello\x00\xff")
    expect_equal(await read_until(stream, b"\xff"), b"hello\x00\xff", "what came back")
    await stream.close()
    await stream.close()


@GROUP.check
async def a_closing_server_ends_the_stream(bench: Bench) -> None:
    """When the server closes, the reader gets what was sent and then the end."""
    box = await bench.box()
    _, port = await serve(bench, box, _GREETER)
    stream = await bench.runtime.connect(box, port)
    expect_equal(await read_to_end(stream), b"welcome", "what came")
    expect_equal(await stream.read(), b"", "a read after the end")
    await stream.close()


async def _send(stream: ByteStream, data: bytes) -> None:
    for start in range(0, len(data), 65536):
        await stream.write(data[start : start + 65536])


@GROUP.check
async def streams_carry_much(bench: Bench) -> None:
    """Ten connections at once each carry 4 MiB both ways, unchanged."""
    box = await bench.box()
    _, port = await serve(bench, box, ECHO)

    async def one(number: int) -> None:
        data = hashlib.shake_128(bytes([number])).digest(4 * MIB)
        stream = await bench.runtime.connect(box, port)
        sender = asyncio.ensure_future(_send(stream, data))
        received = bytearray()
        while len(received) < len(data):
            chunk = await stream.read()
            expect(chunk, f"connection {number} ended after {len(received)} bytes")
            received += chunk
        await sender
        expect(bytes(received) == data, f"connection {number} carried other bytes")
        await stream.close()

    async with asyncio.timeout(30):
        await asyncio.gather(*[one(number) for number in range(10)])


@GROUP.check
async def a_closed_port_is_told(bench: Bench) -> None:
    """Where nothing listens, and for a number that is no port, `connect` raises PortClosed."""
    box = await bench.box()
    running, port = await serve(bench, box, ECHO)
    await bench.runtime.signal(box, running, 9)
    await bench.finish(box, running)
    for number in (port, 0, -1, 65536, 1 << 40):
        with raises(PortClosed, f"connect to {number}"):
            await bench.runtime.connect(box, number)


@GROUP.check
async def a_stopped_reader_holds_the_sender(bench: Bench) -> None:
    """A writer waits while the other side does not read, and can be closed meanwhile."""
    box = await bench.box()
    running, port = await serve(bench, box, _DEAF)
    stream = await bench.runtime.connect(box, port)
    writer = asyncio.ensure_future(_send(stream, b"x" * (64 * MIB)))
    done, _ = await asyncio.wait([writer], timeout=1.0)
    expect(not done, "64 MiB were taken though nobody read them")
    writer.cancel()
    await asyncio.wait([writer])
    async with asyncio.timeout(5):
        await stream.close()
    await bench.runtime.signal(box, running, 9)
