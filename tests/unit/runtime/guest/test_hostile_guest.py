"""The client against a guest that lies: it raises what the contract names, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.contract import (
    BoxGone,
    BoxUnresponsive,
    ByteStream,
    ExecSpec,
    FileKind,
    FileProblem,
    FileProblemKind,
    FileReader,
)
from corral.runtime.guest import GuestClient, protocol
from tests.unit.runtime.guest.fake_guest import frame, guest, request_of, says

HELLO = {"protocol": 1, "version": "0.1.0", "ready": True, "claimed": False, "uptime_ms": 5}
STARTED = frame(2, {"pid": 7, "known": False})
INFO = {"path": "/f", "kind": "file", "size": 3, "mode": 0o644, "mtime": 1.5, "uid": 0, "gid": 0}


@contextlib.asynccontextmanager
async def closing(stream: ByteStream) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await stream.close()


async def gather(reader: FileReader, into: list[bytes]) -> None:
    async for chunk in reader:
        into.append(chunk)  # noqa: PERF401 - an error keeps what came before it


def fill(listener: str, held: contextlib.ExitStack) -> None:
    """Connect until the listener's queue is full."""
    for _ in range(100):
        sock = held.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        sock.connect(listener)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guest.sock"


async def test_no_socket_and_a_dead_one_are_a_box_that_is_gone(path: Path) -> None:
    client = GuestClient(path)
    with pytest.raises(BoxGone):
        await client.hello()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(BoxGone):
        await client.hello()


async def test_a_guest_that_hangs_is_unresponsive(path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with guest(path, hang):
        with pytest.raises(BoxUnresponsive, match=r"did not answer within 0\.1 s"):
            await GuestClient(path).hello(timeout_s=0.1)


async def test_a_guest_that_takes_no_connection_is_unresponsive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as held:
        listener.bind(str(path))
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            fill(str(path), held)
        with pytest.raises(BoxUnresponsive, match="did not answer"):
            await GuestClient(path).hello(timeout_s=0.1)


async def test_an_end_in_the_middle_tells_dead_from_rude(path: Path) -> None:
    async with guest(path, says()):
        with pytest.raises(BoxUnresponsive, match="closed the connection"):
            await GuestClient(path).hello()

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        server.close()
        path.unlink(missing_ok=True)

    async with guest(path, dies) as server:
        with pytest.raises(BoxGone):
            await GuestClient(path).hello()


@pytest.mark.parametrize(
    "answer",
    [
        frame(2, b"not json"),
        frame(2, b"[1]"),
        frame(2, b"\xff\xfe"),
        frame(2, b"[" * 200_000),
        frame(2, b'{"protocol":' + b"9" * 5000 + b"}"),
        frame(2, {}),
        frame(2, HELLO | {"protocol": 2}),
        frame(2, HELLO | {"protocol": True}),
        frame(2, HELLO | {"version": 1}),
        frame(2, HELLO | {"version": "x" * 65}),
        frame(2, HELLO | {"claimed": 1}),
        frame(2, HELLO | {"uptime_ms": "5"}),
        frame(2, HELLO | {"uptime_ms": 5.5}),
        frame(2, b"", length=0xFFFFFFFF),
        frame(2, b"", length=protocol.MAX_ANSWER + 1),
        frame(0, HELLO),
        frame(1, HELLO),
        frame(4, HELLO),
        frame(5, b"data"),
        frame(5, b"", length=1 << 30),
        frame(6, b""),
        frame(77, HELLO),
        frame(3, b"{}"),
        frame(3, {"kind": 1}),
        frame(3, {"kind": "later"}),
        frame(2, HELLO)[:7],
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_nonsense_is_unresponsive(path: Path, answer: bytes) -> None:
    async with guest(path, says(answer)):
        with pytest.raises(BoxUnresponsive, match=r"^cannot greet the guest: "):
            await GuestClient(path).hello()


async def test_what_a_guest_writes_is_never_shown_as_it_is(path: Path) -> None:
    answer = frame(3, {"kind": "failed", "message": "\x1b[31m<b>\n" + "é" * 10 + "x" * 4000})
    async with guest(path, says(answer)):
        with pytest.raises(BoxUnresponsive) as caught:
            await GuestClient(path).hello()
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


async def test_numbers_are_moved_into_range_and_sizes_only_grow(path: Path) -> None:
    events = [
        frame(4, {"stdout": 10, "stderr": -5}),
        frame(4, {"stdout": 3, "stderr": 1 << 80}),
        frame(4, {"stdout": 5, "stderr": 0, "exit_code": 99999, "signal": None, "stdout_cut": True}),
    ]
    async with guest(path, says(STARTED, *events)), await GuestClient(path).wait("x") as following:
        seen = [progress async for progress in following.events()]
    assert [(progress.stdout, progress.stderr) for progress in seen] == [(10, 0), (10, 1 << 62), (10, 1 << 62)]
    result = seen[-1].result
    assert result is not None
    assert (result.exit_code, result.signal, result.stdout_cut, result.stderr_cut) == (255, None, True, False)


async def test_a_signal_is_in_range_and_makes_the_exit_code(path: Path) -> None:
    event = frame(4, {"stdout": 0, "stderr": 0, "exit_code": 0, "signal": 9000})
    async with guest(path, says(STARTED, event)), await GuestClient(path).wait("x") as following:
        seen = [progress async for progress in following.events()]
    result = seen[-1].result
    assert result is not None
    assert (result.exit_code, result.signal) == (128 + 64, 64)


async def test_a_flood_of_events_is_taken_at_a_pace(path: Path) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(STARTED)
        while True:
            sent += 1
            writer.write(frame(4, {"stdout": sent, "stderr": 0}))
            await writer.drain()

    count = 0
    async with guest(path, flood), await GuestClient(path).wait("x") as following:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                async for _ in following.events():
                    count += 1
    assert 5 <= count <= 0.5 / 0.018 + 10
    # What the guest sends beyond that waits in the sockets, not here.
    assert sent < 100_000


async def test_a_listing_is_bounded_and_its_rows_checked(path: Path) -> None:
    row = ["n", "file", 1, 0o644, 1.0, 0, 0]
    reply = frame(2, {"path": "/d"})
    many = [frame(4, {"rows": [row] * 1000})] * 10
    client = GuestClient(path)
    async with guest(path, says(reply, *many, frame(6))):
        assert len(await client.list_files("/d")) == protocol.MAX_ENTRIES
    async with guest(
        path, says(reply, frame(4, {"rows": [["n", "socket", 1 << 99, -1, -1e300, -1, 1 << 99]]}), frame(6))
    ):
        found = (await client.list_files("/d"))[0]
    assert (found.kind, found.size, found.mode, found.mtime, found.uid) == (FileKind.OTHER, 1 << 62, 0, -1e12, 0)
    bad: list[list[bytes]] = [
        [reply, *many, frame(4, {"rows": [row]}), frame(6)],
        [reply, frame(4, {"rows": []})],
        [reply, frame(4, {"rows": {}})],
        [reply, frame(4, {"rows": [row[:6]]})],
        [reply, frame(4, {"rows": ["nfffff7"]})],
        [reply, frame(4, {"rows": [["n" * 1025, *row[1:]]]})],
        [reply, frame(4, b'{"rows":[["n","file",1,1,NaN,0,0]]}')],
        [reply, frame(4, b'{"rows":[["n","file",1,1,1e999,0,0]]}')],
        [frame(2, {"path": "/" + "d" * 5000})],
        [reply, frame(4, {"rows": [row]})],
    ]
    for parts in bad:
        async with guest(path, says(*parts)):
            with pytest.raises(BoxUnresponsive):
                await client.list_files("/d")


async def test_a_lone_surrogate_does_not_get_through(path: Path) -> None:
    rows = b'{"rows":[["\\ud800","file",1,1,1,0,0]]}'
    async with guest(path, says(frame(2, {"path": "/d"}), frame(4, rows), frame(6))):
        found = (await GuestClient(path).list_files("/d"))[0]
    assert found.path == "/d/?"
    found.path.encode()


async def test_a_file_that_breaks_off_raises_and_gives_no_more_than_was_sent(path: Path) -> None:
    client = GuestClient(path)
    cases = [
        ([frame(5, b"abc")], BoxUnresponsive),
        ([frame(5, b"abc", length=10)], BoxUnresponsive),
        ([frame(5, b"abc"), frame(5, b"", length=(1 << 18) + 1)], BoxUnresponsive),
        ([frame(5, b"abc"), frame(3, {"kind": "other", "errno": 5})], FileProblem),
        ([frame(5, b"abc"), frame(4, {})], BoxUnresponsive),
    ]
    for parts, error in cases:
        async with guest(path, says(frame(2, INFO), *parts)):
            got: list[bytes] = []
            reader = await client.read_file("/f")
            with pytest.raises(error):
                await gather(reader, got)
        assert b"".join(got) == b"abc"


async def test_an_endless_file_stays_in_the_sockets(path: Path) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(frame(2, INFO))
        while True:
            writer.write(frame(5, b"x" * 262_144))
            await writer.drain()
            sent += 262_144

    async with guest(path, endless):
        reader = await GuestClient(path).read_file("/f")
        async for chunk in reader:
            assert len(chunk) <= 262_144
            break
        await asyncio.sleep(0.1)
        assert sent < 4_000_000
        await reader.close()


async def test_an_early_error_of_an_upload_is_heard(path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 262_144

    async with guest(path, says(frame(3, {"kind": "no-space", "errno": 28}))):
        with pytest.raises(FileProblem) as caught:
            await GuestClient(path).write_file("/f", chunks())
    assert caught.value.kind is FileProblemKind.NO_SPACE
    assert caught.value.message == "cannot write '/f': no space left"


async def test_a_large_request_with_descriptors_arrives_whole(path: Path) -> None:
    got: list[dict[str, object]] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        got.append(await request_of(reader))
        writer.write(STARTED)

    env = {f"V{n}": "x" * 100_000 for n in range(20)}
    with Path("/dev/null").open("wb") as null:
        fds = (null.fileno(),) * 3
        async with guest(path, slow):
            following = await GuestClient(path).execute(ExecSpec(id="x", argv=("true",), env=env), fds)
            await following.close()
    assert got[0]["env"] == env


async def test_a_socket_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    short = tmp_path / "s"
    async with guest(short, says(frame(2, HELLO))):
        (folder / "guest.sock").hardlink_to(short)
        assert len(str(folder / "guest.sock")) > 107
        assert (await GuestClient(folder / "guest.sock").hello()).version == "0.1.0"
