"""What an object costs on its way in and out: speed beside a plain file's, and the server's memory."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness.server import Server

MIB = 1024 * 1024
SIZE = 1024 * MIB
#: The bars are for a quiet machine; the other load of a test run may take most of it.
BAR_MB_S = 300
SLACK = 4.0
GROWTH_MIB = 32

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data") as one:
        yield one


def peak(server: Server) -> int:
    """The most memory of its own that the server has had, in MiB; the pages of files that it maps apart."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def rate(work: Callable[[], None]) -> float:
    """Megabytes a second."""
    began = time.perf_counter()
    work()
    return SIZE / 1e6 / (time.perf_counter() - began)


def send(url: str, watch: Callable[[], None]) -> None:
    """PUT SIZE bytes, and read the answer."""
    parts = urlsplit(url)
    piece = os.urandom(MIB)
    with socket.create_connection((str(parts.hostname), parts.port or 80)) as line:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {SIZE}\r\n\r\n"
        line.sendall(head.encode())
        for count in range(SIZE // MIB):
            line.sendall(piece)
            if count % 64 == 0:
                watch()
        assert line.recv(65536).startswith(b"HTTP/1.1 200")


def fetch(url: str, watch: Callable[[], None]) -> None:
    """GET SIZE bytes."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port or 80)) as line:
        line.sendall(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
        )
        space = bytearray(4 * MIB)
        size = chunks = 0
        while got := line.recv_into(space):
            size += got
            chunks += 1
            if chunks % 256 == 0:
                watch()
        assert SIZE < size < SIZE + 4096


def write_plainly(path: Path) -> None:
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(piece)
        os.fsync(file.fileno())


def test_an_object_moves_fast_and_the_server_does_not_grow(server: Server, tmp_path: Path) -> None:
    with httpx.Client(base_url=server.url, headers=server.headers) as caller:

        def one(megabytes: int) -> None:
            made = caller.post("/v1/objects", json={"name": "warm", "content_type": "binary"}).json()
            httpx.put(made["upload_url"], content=bytes(megabytes * MIB), timeout=60).raise_for_status()

        one(32)
        before, most = peak(server), 0

        def watch() -> None:
            nonlocal most
            most = max(most, peak(server))

        made = caller.post("/v1/objects", json={"name": "large", "content_type": "binary"}).json()

        def upload() -> None:
            """Until it is on the disk, which is when the completion is answered."""
            send(made["upload_url"], watch)
            done = caller.post(f"/v1/objects/{made['id']}/complete", timeout=60).json()
            assert done["size_bytes"] == SIZE

        up = rate(upload)
        url = caller.get(f"/v1/objects/{made['id']}/download").json()["download_url"]
        down = rate(lambda: fetch(url, watch))
    plain = rate(lambda: write_plainly(tmp_path / "plain"))
    grown = most - before
    print(f"\nup {up:.0f} MB/s, down {down:.0f} MB/s, a plain file {plain:.0f} MB/s, growth {grown} MiB")
    assert grown <= GROWTH_MIB
    assert min(up, down) >= BAR_MB_S / SLACK
