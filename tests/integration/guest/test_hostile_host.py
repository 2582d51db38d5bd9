"""The guest against any bytes: it answers or closes, and goes on serving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.guest.box import Box, soon
from tests.integration.guest.raw import connect, error_of, exchange, frame


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
