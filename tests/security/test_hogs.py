"""A box that takes all it can get, or ruins itself, is alone with that: its neighbour answers, it can be removed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from corral.runtime.contract import MIB, BoxStatus, Limits, RuntimeFailure
from tests.security.yard import HOSTILE, MARKS, NEIGHBOUR, PRELUDE, Yard

pytestmark = MARKS

SMALL = Limits(memory=96 * MIB, disk=64 * MIB, pids=100)
#: How long each program goes on taking.
TAKING = "end = time.monotonic() + 2.5\n"

MEMORY = {
    "anonymous": "held = []\nwhile time.monotonic() < end: held.append(bytearray(8 << 20))",
    "shared memory": """
with open("/dev/shm/x", "wb") as file:
    while time.monotonic() < end: file.write(b"x" * (1 << 20))""",
    "memory files": """
files = []
while time.monotonic() < end:
    fd = os.memfd_create("x"); files.append(fd); os.write(fd, b"x" * (4 << 20))""",
    "system v": """
libc.shmget.restype = ctypes.c_int
libc.shmat.restype = ctypes.c_void_p
while time.monotonic() < end:
    segment = libc.shmget(0, ctypes.c_size_t(8 << 20), 0o1600)
    where = libc.shmat(segment, None, 0)
    if segment < 0 or where in (None, ctypes.c_void_p(-1).value): break
    ctypes.memset(where, 1, 8 << 20)""",
    "page cache": """
with open("/root/x", "wb") as file:
    while time.monotonic() < end:
        file.write(b"x" * (1 << 20))
        if file.tell() > 48 << 20: file.seek(0)""",
    "pipes": """
import fcntl, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
pipes = []
while time.monotonic() < end:
    read, write = os.pipe(); pipes.append((read, write)); os.set_blocking(write, False)
    attempt(fcntl.fcntl, write, 1031, 1 << 20)
    while attempt(os.write, write, b"x" * 65536) == "done": pass""",
    "sockets": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
server = socket.create_server(("127.0.0.1", 0), backlog=512)
held = []
while time.monotonic() < end:
    client = socket.create_connection(server.getsockname(), 1); held += [client, server.accept()[0]]
    client.setblocking(False)
    while attempt(client.send, b"x" * 65536) == "done": pass""",
    "unix sockets": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
while time.monotonic() < end:
    pair = socket.socketpair(); held.append(pair); pair[0].setblocking(False)
    while attempt(pair[0].send, b"x" * 65536) == "done": pass""",
    "descriptors": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
while time.monotonic() < end and len(held) < 15000: held.append(os.open("/", os.O_RDONLY))""",
}

DISK = {
    "many files": """
number = 0
while time.monotonic() < end:
    if number % 2000 == 0: os.makedirs(f"/srv/many/{number}")
    open(f"/srv/many/{number - number % 2000}/{number}", "w").write("x"); number += 1""",
    "links": """
open("/srv/one", "w").close()
number = 0
while time.monotonic() < end: os.link("/srv/one", f"/srv/link{number:0200d}"); number += 1""",
    "attributes": """
number = 0
while time.monotonic() < end:
    path = f"/srv/a{number}"; open(path, "w").close(); number += 1
    for key in range(3): os.setxattr(path, f"user.x{key}", b"x" * 3000)""",
    "sparse files": """
with open("/srv/sparse", "wb") as file:
    file.truncate(1 << 40)
    while time.monotonic() < end: file.seek(1 << 20, 1); file.write(b"x" * (1 << 20)); file.flush()""",
    "allocated": """
number = 0
while time.monotonic() < end:
    fd = os.open(f"/srv/f{number}", os.O_CREAT | os.O_RDWR); number += 1; os.posix_fallocate(fd, 0, 16 << 20)""",
    "deleted but open": """
held = []
while time.monotonic() < end:
    file = open("/srv/gone", "wb"); held.append(file); os.remove("/srv/gone")
    file.write(os.urandom(2 << 20)); file.flush(); os.fsync(file.fileno())""",
}


@pytest.mark.parametrize("way", MEMORY)
async def test_memory_beyond_the_limit_is_not_had(yard: Yard, way: str) -> None:
    async with yard.victim("hog", SMALL) as box:
        await asyncio.gather(_take(yard, box, MEMORY[way]), yard.answers())
        usage = await yard.runtime.usage(box)
        assert usage.memory_peak <= SMALL.memory + MIB
        assert (await yard.runtime.usage(NEIGHBOUR)).oom_kills == 0
        assert (await yard.runtime.inspect(box)).status is BoxStatus.RUNNING


@pytest.mark.parametrize("way", DISK)
async def test_disk_beyond_the_limit_is_not_had(yard: Yard, way: str) -> None:
    async with yard.victim("filler", Limits(memory=256 * MIB, disk=32 * MIB, pids=100)) as box:
        await asyncio.gather(_take(yard, box, DISK[way]), yard.answers())
        await yard.run(box, "sync")
        assert (await yard.runtime.usage(box)).disk <= 40 * MIB
        assert (await yard.run(NEIGHBOUR, "bash", "-c", "echo x > /srv/y && rm /srv/y")).code == 0


async def _take(yard: Yard, box: str, program: str) -> None:
    """Run it to its end, whatever that is: no memory, no room, or the time is over."""
    await yard.run(box, "python3", "-I", "-c", PRELUDE + TAKING + program)


async def test_a_fork_bomb_leaves_the_neighbour_its_tasks(yard: Yard) -> None:
    async with yard.victim("bomb", SMALL) as box:
        bomb = asyncio.create_task(yard.run(box, "bash", "-c", "b() { b | b & }; b; sleep 3"))
        await asyncio.sleep(1)
        await yard.answers()
        assert (await yard.runtime.usage(box)).pids <= SMALL.pids
        await yard.runtime.destroy(box)
        await asyncio.gather(bomb, return_exceptions=True)


async def test_killing_everything_leaves_process_1(yard: Yard) -> None:
    async with yard.victim("killer", SMALL) as box:
        for _ in range(3):
            await yard.run(box, "bash", "-c", "kill -9 -1; kill -9 1")
        assert (await yard.runtime.inspect(box)).status is BoxStatus.RUNNING
        await yard.answers(box)


async def test_a_starved_guest_costs_only_its_own_box(yard: Yard) -> None:
    """Root may take process 1's descriptors and turns on the processor: who waits for it waits while it lives."""
    async with yard.victim("starved", SMALL) as box:
        await yard.run(box, "python3", "-c", """
import os, resource
resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))
os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))
""")  # fmt: skip
        waiting = asyncio.create_task(yard.run(box, "true"))
        await asyncio.sleep(0.5)
        await yard.answers()
        async with asyncio.timeout(5):
            await yard.runtime.destroy(box)
            with contextlib.suppress(RuntimeFailure):
                await waiting


async def test_removing_every_file_harms_nobody_else(yard: Yard) -> None:
    async with yard.victim("wreck", Limits(memory=256 * MIB, disk=128 * MIB, pids=200)) as box:
        layer = yard.spec("x").layers[0].path
        before = sorted(path.name for path in (layer / "usr/bin").iterdir())
        await yard.run(box, "timeout", "20", "rm", "-rf", "--no-preserve-root", "/")
        assert sorted(path.name for path in (layer / "usr/bin").iterdir()) == before
        assert (await yard.runtime.inspect(box)).status is BoxStatus.RUNNING
        await yard.answers(HOSTILE)
    await yard.box("wreck")
    await yard.answers("wreck")
    await yard.runtime.destroy("wreck")


async def test_an_endless_output_is_cut_and_delays_nobody(yard: Yard) -> None:
    flood = asyncio.create_task(yard.run(HOSTILE, "timeout", "2", "yes", limit=1 << 20))
    await asyncio.sleep(0.3)
    await yard.answers()
    ran = await flood
    assert ran.result.stdout_cut
    assert len(ran.stdout) <= 1 << 20
