"""The guest against any bytes: it answers or closes, and goes on serving."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import time
from pathlib import Path

import pytest

from corral.runtime.contract import TerminalSize
from tests.integration.guest.box import Box, soon

SEED = int(os.environ.get("GUEST_FUZZ_SEED", "20261123"))
OPS = ["hello", "claim", "exec", "wait", "executions", "signal", "stdin", "resize", "attach", "read", "write", "list"]
OPS += ["stat", "connect", "later", ""]
VALUES: list[object] = [
    None,
    True,
    0,
    -1,
    1 << 70,
    1.5,
    "",
    "x",
    "a\0b",
    "/tmp/f",
    [],
    ["x"],
    {},
    {"a": "b"},
    {"rows": 1},
]
FIELDS = ["id", "argv", "env", "cwd", "user", "stdin", "terminal", "limit", "path", "port", "signal", "eof", "rows"]
FIELDS += ["cols", "hostname", "offset", "mode", "group"]


def connect(box: Box) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(box.path))
    return sock


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BI", kind, len(payload) if length is None else length) + payload


def send(sock: socket.socket, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send, and close that direction."""
    try:
        if fds:
            socket.send_fds(sock, [data], list(fds))
        else:
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it had closed already, which is an answer


def exchange(box: Box, data: bytes, fds: tuple[int, ...] = ()) -> bytes:
    """Send, and return what comes until the guest closes."""
    with connect(box) as sock:
        send(sock, data, fds)
        answer = b""
        try:
            while more := sock.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        return answer


def poke(box: Box, data: bytes) -> None:
    """Send, and wait for the first bytes of an answer, or the end."""
    with connect(box) as sock:
        send(sock, data)
        with contextlib.suppress(ConnectionResetError):
            sock.recv(65536)


def error_of(answer: bytes) -> str:
    kind, length = struct.unpack("<BI", answer[:5])
    assert (kind, len(answer)) == (3, 5 + length)
    loaded: str = json.loads(answer[5:])["kind"]
    return loaded


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (frame(1, b"not json"), "bad-request"),
        (frame(1, b"[]"), "bad-request"),
        (frame(1, b"{}"), "bad-request"),
        (frame(1, b'{"op":1}'), "bad-request"),
        (frame(1, b'{"op":"later"}'), "unknown-op"),
        (frame(1, b'{"op":"wait"}'), "bad-request"),
        (frame(1, b'{"op":"connect","port":70000}'), "bad-request"),
        (frame(1, b"[" * 100_000), "bad-request"),
        (frame(1, b'{"op":"hello","x":' + b"[" * 100_000), "bad-request"),
        (frame(1, b"", 0), "bad-request"),
        (frame(1, b"", 0xFFFFFFFF), "bad-request"),
        (frame(1, b"", (4 << 20) + 1), "bad-request"),
        (frame(5, b"data"), "bad-request"),
        (frame(6, b""), "bad-request"),
        (frame(6, b"x"), "bad-request"),
        (frame(9, b"x"), "bad-request"),
        (frame(1, json.dumps({"op": "exec", "id": "a b", "argv": ["true"], "limit": 1}).encode()), "bad-request"),
        (frame(1, json.dumps({"op": "exec", "id": "a", "argv": ["true"], "limit": 1}).encode()), "bad-request"),
        (frame(1, json.dumps({"op": "exec", "id": "a", "argv": ["true"], "limit": -1}).encode()), "bad-request"),
    ],
)
async def test_a_bad_request_is_told_so(box: Box, data: bytes, kind: str) -> None:
    assert error_of(exchange(box, data)) == kind
    await box.client.hello()


async def test_descriptors_where_none_belong_are_closed(box: Box) -> None:
    before = box.descriptors()
    with Path("/etc/hostname").open() as file:
        for count in (1, 3, 200):
            data = frame(1, b'{"op":"hello"}')
            assert error_of(exchange(box, data, (file.fileno(),) * count)) == "bad-request"
    assert await soon(lambda: box.descriptors() == before)


def hostile(rng: random.Random) -> bytes:
    """Bytes that are a request less and less often."""
    choice = rng.random()
    if choice < 0.2:
        return rng.randbytes(rng.randrange(1, 200))
    if choice < 0.4:
        return frame(rng.randrange(8), rng.randbytes(rng.randrange(64)), rng.choice([None, 3, 1 << 20]))
    request = {"op": rng.choice(OPS)} | {name: rng.choice(VALUES) for name in rng.sample(FIELDS, 6)}
    if choice < 0.8:
        request["id"] = rng.choice(["x", "y"])
    data = frame(1, json.dumps(request).encode())
    for _ in range(rng.randrange(3)):
        data += frame(rng.choice([1, 5, 6]), rng.randbytes(rng.randrange(20)))
    return data


async def test_random_bytes_and_requests_do_not_end_the_guest(box: Box) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    quiet = ("/bin/sh", "-c", "trap '' INT QUIT TERM HUP; while :; do cat; sleep 0.01; done")
    async with (
        box.start_command(*quiet, terminal=TerminalSize(), name="x"),
        box.start_command(*quiet, stdin=True, name="y"),
    ):
        for turn in range(20_000):
            if time.monotonic() - began > 15:
                break
            data = hostile(rng)
            try:
                poke(box, data)
            except TimeoutError:
                pytest.fail(f"no answer in turn {turn} with seed {SEED}: {data!r}")
    hello = await box.client.hello()
    assert hello.uptime_ms >= 0
    done = await box.sh("echo well", user="root")
    assert done.stdout == b"well\n"


async def test_many_connections_that_say_nothing_are_bounded_and_dropped(box: Box) -> None:
    limit = int((await box.sh("ulimit -Hn")).stdout) // 4
    silent = [connect(box) for _ in range(min(1024, limit) + 10)]
    # Those over the limit are told so at once.
    assert error_of(silent[-1].recv(1000)) == "busy"
    silent[0].settimeout(15)
    assert silent[0].recv(10) == b""
    for sock in silent:
        sock.close()
    await box.client.hello()


async def test_half_requests_are_bounded_in_memory(box: Box) -> None:
    socks = []
    for _ in range(8):
        sock = connect(box)
        socks.append(sock)
        sock.sendall(frame(1, b"", 4 << 20))
        sock.setblocking(False)
        sent = 0
        try:
            while sent < (4 << 20) - 1:
                sent += sock.send(b"x" * 65536)
        except (BlockingIOError, ConnectionError):
            pass
    await box.client.hello()
    assert error_of(socks[-1].recv(1000)) == "busy"
    assert (await box.sh("echo fine")).stdout == b"fine\n"
    rss = next(line for line in Path(f"/proc/{box.pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    assert int(rss.split()[1]) < 20 * 1024
    for sock in socks:
        sock.close()
