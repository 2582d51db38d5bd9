"""Large files pass through the server without growing it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness.server import Server

MIB = 1024 * 1024
SIZE = 256 * MIB
GROWTH = 32 * MIB


def resident(pid: int) -> int:
    """Bytes of the process in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", runtime="fake") as one:
        yield one


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_large_files_go_up_and_come_down_in_constant_memory(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=120) as client:
        devbox_id = client.post("/v1/devboxes/create_and_await_running", json={}).json()["id"]
        content = os.urandom(MIB)
        sent, read = hashlib.sha256(), hashlib.sha256()
        peak = 0

        def form() -> Iterator[bytes]:
            nonlocal peak
            yield b'--B\r\nContent-Disposition: form-data; name="path"\r\n\r\nbig\r\n'
            yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
            for _ in range(SIZE // MIB):
                sent.update(content)
                peak = max(peak, resident(server.pid))
                yield content
            yield b"\r\n--B--\r\n"

        before = resident(server.pid)
        headers = {"content-type": "multipart/form-data; boundary=B"}
        path = f"/v1/devboxes/{devbox_id}"
        assert client.post(f"{path}/upload_file", content=form(), headers=headers).status_code == 200
        assert peak - before < GROWTH
        with client.stream("POST", f"{path}/download_file", json={"path": "big"}) as answer:
            for chunk in answer.iter_raw():
                read.update(chunk)
        assert read.digest() == sent.digest()
        assert resident(server.pid) - before < GROWTH


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_the_download_and_not_the_memory(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        devbox_id = client.post("/v1/devboxes/create_and_await_running", json={}).json()["id"]
        path = f"/v1/devboxes/{devbox_id}"
        made = client.post(f"{path}/execute", json={"command": f"head -c {SIZE} /dev/zero > big"}).json()
        assert made["exit_status"] == 0
        before = resident(server.pid)
        body = b'{"path": "big"}'
        head = (
            f"POST {path}/download_file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as idle:
            idle.sendall(head.encode() + body)
            idle.recv(1024)
            for _ in range(20):
                assert client.get(path).status_code == 200
            assert resident(server.pid) - before < GROWTH


@pytest.mark.slow
def test_a_follower_that_does_not_read_holds_the_log_and_not_the_memory(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        devbox_id = client.post("/v1/devboxes/create_and_await_running", json={}).json()["id"]
        path = f"/v1/devboxes/{devbox_id}"
        client.post(f"{path}/execute", json={"command": "echo first"})
        before = resident(server.pid)
        with socket.create_connection(("127.0.0.1", server.port)) as idle:
            idle.sendall(
                f"GET {path}/logs/tail HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n\r\n".encode()
            )
            idle.recv(1024)
            made = client.post(f"{path}/execute", json={"command": "yes 0123456789 | head -n 4000000"}).json()
            assert made["exit_status"] == 0
            for _ in range(20):
                assert client.get(path).status_code == 200
            assert resident(server.pid) - before < GROWTH
            size = client.get(f"{path}/executions/{made['execution_id']}").json()
            assert size["stdout_truncated"] is True
